// The picture of a clip: waveform, log-mel spectrogram, playhead. Put before the script of Listen, behind dom.js.

const LEFT = 52, WAVE = 64, GAP = 8, MEL = 160, AXIS = 20; // pixels of the picture
// Viridis: it grows lighter evenly, so that it can be read in grey and with every kind of colour vision.
const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6dcd59", "b4de2c", "fde725"]
  .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));

function colourMap() {
  const table = new Uint8ClampedArray(256 * 4);
  for (let value = 0; value < 256; value++) {
    const place = (value / 255) * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
    for (let c = 0; c < 3; c++)
      table[4 * value + c] = VIRIDIS[low][c] + (place - low) * (VIRIDIS[low + 1][c] - VIRIDIS[low][c]);
    table[4 * value + 3] = 255;
  }
  return table;
}
const MAP = colourMap();

const copy = (view) => (view ? view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) : new ArrayBuffer(0));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function secondsStep(seconds, width) {
  const wanted = (seconds * 70) / width;
  return [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((step) => step >= wanted) ?? 60;
}

// Waveform and spectrogram on one canvas, the playhead over it. seek(seconds) is called by pointer and keys.
function pictureOf(model, seek) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  const head = make("div", { class: "aw-listen-head", "aria-hidden": "true" });
  const node = make("div", {
    class: "aw-listen-picture", tabindex: 0, role: "slider", "aria-valuemin": 0,
    "aria-keyshortcuts": "Space ArrowLeft ArrowRight Home End",
  }, canvas, head);
  node.style.height = `${WAVE + GAP + MEL + AXIS}px`;
  let sound = {}, wave = new Float32Array(0), image = null;

  const span = () => Math.max(1, node.clientWidth - LEFT - 1);
  const timeAt = (event) =>
    clamp((event.clientX - node.getBoundingClientRect().left - LEFT) / span(), 0, 1) * sound.seconds;

  function read() {
    sound = model.get("sound");
    wave = new Float32Array(copy(model.get("wave")));
    const mel = new Uint8Array(copy(model.get("mel"))), { rows = 0, frames = 0 } = sound;
    image = null;
    if (rows && frames && mel.length === rows * frames) {
      const pixels = new ImageData(frames, rows);
      for (let row = 0; row < rows; row++)
        for (let k = 0; k < frames; k++) {
          const value = 4 * mel[row * frames + k], at = 4 * ((rows - 1 - row) * frames + k);
          for (let c = 0; c < 4; c++) pixels.data[at + c] = MAP[value + c];
        }
      image = make("canvas", { width: frames, height: rows });
      image.getContext("2d").putImageData(pixels, 0, 0);
    }
    const seconds = (sound.seconds ?? 0).toFixed(1);
    node.setAttribute("aria-label", `Waveform and log-mel spectrogram of ${sound.id}, ${seconds} seconds. Position`);
    node.setAttribute("aria-valuemax", seconds);
    draw();
  }

  function draw() {
    const width = node.clientWidth, height = node.clientHeight, ratio = window.devicePixelRatio || 1;
    if (!width || !wave.length) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d"), style = getComputedStyle(node), inner = span();
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.scale(ratio, ratio);
    pen.font = `11px ${style.fontFamily}`;
    pen.textBaseline = "middle";
    drawWave(pen, inner, colour);
    const top = WAVE + GAP;
    if (image) {
      pen.imageSmoothingQuality = "high";
      pen.drawImage(image, LEFT, top, inner, MEL);
    }
    pen.fillStyle = pen.strokeStyle = colour("--aw-faint");
    pen.textAlign = "right";
    for (const [hertz, share] of image ? sound.ticks : []) {
      const y = Math.round(top + MEL * (1 - share)) + 0.5;
      pen.fillText(`${hertz / 1000} kHz`, LEFT - 7, y);
      line(pen, LEFT - 4, y, LEFT, y);
    }
    pen.textAlign = "center";
    const bottom = top + (image ? MEL : 0), step = secondsStep(sound.seconds, inner);
    for (let i = 0; i * step <= sound.seconds + 1e-9; i++) {
      const x = LEFT + (inner * i * step) / sound.seconds, text = `${Number((i * step).toFixed(1))} s`;
      line(pen, x, bottom, x, bottom + 4);
      pen.fillText(text, Math.min(x, width - pen.measureText(text).width / 2), bottom + 12);
    }
  }

  function drawWave(pen, inner, colour) {
    const count = wave.length / 2, peak = sound.peak || 1, middle = WAVE / 2, scale = (WAVE / 2 - 6) / peak;
    pen.strokeStyle = colour("--aw-line");
    line(pen, LEFT, middle + 0.5, LEFT + inner, middle + 0.5);
    pen.fillStyle = colour("--aw-listen-blue");
    pen.beginPath();
    for (let i = 0; i < count; i++) pen.lineTo(LEFT + (inner * (i + 0.5)) / count, middle - wave[2 * i + 1] * scale - 0.4);
    for (let i = count - 1; i >= 0; i--) pen.lineTo(LEFT + (inner * (i + 0.5)) / count, middle - wave[2 * i] * scale + 0.4);
    pen.fill();
    pen.fillStyle = colour("--aw-faint");
    pen.textAlign = "right";
    for (const value of [peak, 0, -peak])
      pen.fillText(value ? signed(value, 2) : "0", LEFT - 7, middle - value * scale);
  }

  function line(pen, x1, y1, x2, y2) {
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
    pen.stroke();
  }

  function place(seconds) {
    const share = sound.seconds ? clamp(seconds / sound.seconds, 0, 1) : 0;
    head.style.transform = `translateX(${LEFT + share * span() - 1}px)`;
    node.setAttribute("aria-valuenow", seconds.toFixed(1));
    node.setAttribute("aria-valuetext", `${seconds.toFixed(1)} of ${(sound.seconds ?? 0).toFixed(1)} seconds`);
  }

  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    node.setPointerCapture(event.pointerId);
    seek(timeAt(event));
  });
  node.addEventListener("pointermove", (event) => {
    if (node.hasPointerCapture(event.pointerId)) seek(timeAt(event));
  });
  return { node, read, draw, place };
}
