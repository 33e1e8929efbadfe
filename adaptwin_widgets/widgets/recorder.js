// Recorder: the microphone, its level, the prompts, and what is said of each take. Sound goes to the kernel alone.

const COLLECT = `registerProcessor("aw-collect", class extends AudioWorkletProcessor {
  process(inputs) {
    if (inputs[0].length) this.port.postMessage(inputs[0][0].slice());
    return true;
  }
});`;
const FALL = 30; // dB a second: slowly enough to be read
const WHY = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it for this page, then press record again.",
  NotFoundError: "No microphone was found. Connect one, then press record again.",
  NotReadableError: "The microphone is in use by another program. Close that, then press record again.",
};

// One recording: open, collect, close. Nothing listens in between.
async function listen(level) {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives its microphone only to pages of this machine (localhost) and to https.");
  }
  // The voice as it is: what telephones do to it would be learned along with it.
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const context = new AudioContext();
  const script = URL.createObjectURL(new Blob([COLLECT], { type: "text/javascript" }));
  const chunks = [];
  try {
    await context.audioWorklet.addModule(script);
    const collect = new AudioWorkletNode(context, "aw-collect");
    // A browser runs only what leads to the loudspeaker; what this node gives it is silence.
    context.createMediaStreamSource(stream).connect(collect).connect(context.destination);
    collect.port.onmessage = ({ data }) => {
      chunks.push(data);
      level(data, data.length / context.sampleRate);
    };
    await context.resume();
  } catch (error) {
    stream.getTracks().forEach((track) => track.stop());
    throw error;
  } finally {
    URL.revokeObjectURL(script);
  }
  return async () => {
    stream.getTracks().forEach((track) => track.stop());
    const rate = context.sampleRate;
    await context.close();
    const samples = new Float32Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    let at = 0;
    for (const chunk of chunks) { samples.set(chunk, at); at += chunk.length; }
    return { samples, rate };
  };
}

function render({ model, el }) {
  const problem = alertBox();
  const count = make("span", { class: "aw-faint" });
  const done = make("progress", { "aria-label": "Sentences recorded" });
  const prompt = make("p", { class: "aw-recorder-prompt", lang: "en" });
  const meter = make("meter", { min: -60, max: 0, low: -40, high: -3, optimum: -15, value: -60, "aria-label": "Level of the microphone, dB" });
  const loud = make("span", { class: "aw-faint aw-number", "aria-hidden": "true" });
  const record = make("button", { type: "button", class: "aw-main", onclick: toggle });
  const replay = make("button", { type: "button", onclick: () => sound.ask({ do: "replay", index: model.get("index") }) }, "Play");
  const back = make("button", { type: "button", onclick: () => show(-1) }, "← Previous");
  const next = make("button", { type: "button", onclick: () => show(1) }, "Next →");
  const keep = make("button", { type: "button", onclick: once(() => model.send({ do: "keep" })) }, "Keep it all the same");
  const there = make("button", { type: "button", onclick: () => go(judged()) }, "Go back to it");
  const said = make("p", { role: "status", "aria-live": "polite" });
  const audio = make("audio", { controls: true, hidden: true, "aria-label": "Your recording" });
  const where = make("p", { class: "aw-faint" });
  const root = make("section", { class: "aw aw-recorder aw-column", "aria-label": "Recorder" },
    problem.node, make("div", { class: "aw-row" }, count, done), prompt,
    make("div", { class: "aw-row" }, record, meter, loud),
    make("div", { class: "aw-row" }, back, next, replay, audio), said, make("div", { class: "aw-row" }, keep, there), where);
  el.append(root);
  let stop = null, busy = false, limit = 0, gone = false;
  const sound = asking(model, ({ replay: index }, buffers) => {
    if (index !== model.get("index")) return false;
    URL.revokeObjectURL(audio.src);
    audio.src = URL.createObjectURL(new Blob([buffers[0]], { type: "audio/wav" }));
    audio.hidden = false;
    audio.play().catch(() => {}); // a browser may want one more press on the player
  });

  function level(chunk, seconds) {
    let peak = 1e-3;
    for (const value of chunk) peak = Math.max(peak, Math.abs(value));
    const now = 20 * Math.log10(peak);
    meter.value = Math.max(now, meter.value - FALL * seconds);
    say(loud, `${signed(meter.value)} dB`);
  }

  async function toggle() {
    if (busy) return;
    busy = true;
    problem.show({});
    try {
      if (stop === null) {
        quiet(); // what plays would be recorded too, and it is the take before this one
        const index = model.get("index");
        const finish = await listen(level);
        if (gone) return void finish();
        stop = { finish, index };
        limit = setTimeout(toggle, 1000 * model.get("longest"));
      } else {
        const { finish, index } = stop;
        stop = null;
        clearTimeout(limit);
        const { samples, rate } = await finish();
        model.send({ do: "take", rate, index }, undefined, [samples.buffer]);
      }
    } catch (error) {
      problem.show({ sentence: WHY[error.name] ?? error.message });
    } finally {
      busy = false;
      draw();
    }
  }

  const go = (index) => model.send({ do: "show", index });
  const show = (step) => go(model.get("index") + step);
  const judged = () => model.get("prompts").indexOf(model.get("verdict").prompt); // the sentence of the last take

  function draw() {
    const prompts = model.get("prompts"), index = model.get("index"), taken = model.get("taken");
    const verdict = model.get("verdict"), mine = judged() === index;
    const recorded = prompts.filter((text) => text in taken);
    const seconds = Object.values(taken).reduce((sum, length) => sum + length, 0);
    say(count, `Sentence ${index + 1} of ${prompts.length}; ${recorded.length} recorded, ${(seconds / 60).toFixed(1)} min`);
    done.max = prompts.length;
    done.value = recorded.length;
    say(prompt, prompts[index]);
    const recording = stop !== null, has = prompts[index] in taken;
    say(record, recording ? "■ Stop" : has ? "● Record again" : "● Record");
    record.setAttribute("aria-pressed", recording);
    able(record, recording || verdict.state !== "checking");
    able(back, !recording && index > 0);
    able(next, !recording && index < prompts.length - 1);
    able(replay, !recording && has);
    const words = {
      checking: () => "Checking …",
      kept: () => `✓ Kept, ${verdict.seconds} s, ${signed(verdict.level, 1)} dB.`,
      refused: () => `✗ ${verdict.problem}`,
      doubtful: () => `? ${verdict.problem}`,
    };
    const whose = mine ? "" : `Sentence ${judged() + 1}: `; // somebody who reads fast is at the next one already
    say(said, recording ? "Recording; read the sentence, then press stop." : verdict.state ? whose + words[verdict.state]() : "");
    keep.hidden = recording || verdict.state !== "doubtful";
    there.hidden = recording || mine || !["doubtful", "refused"].includes(verdict.state);
    say(where, `Recordings go to the notebook's kernel, into its folder ${model.get("where")}, and nowhere else.`);
  }

  const drawError = () => problem.show(model.get("error"));

  function quiet() {
    sound.forget();
    audio.pause();
    audio.hidden = true;
  }

  function moved() {
    quiet();
    draw();
  }

  model.on("change:prompts change:taken change:verdict", draw);
  model.on("change:index", moved);
  model.on("change:error", drawError);
  draw();
  drawError();
  return () => {
    gone = true;
    clearTimeout(limit);
    stop?.finish();
    URL.revokeObjectURL(audio.src);
    model.off("change:prompts change:taken change:verdict", draw);
    model.off("change:index", moved);
    model.off("change:error", drawError);
    sound.off();
  };
}

export default { render };
