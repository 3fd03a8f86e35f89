// Uploads with progress: files are handed to the browser, which streams them from disk, two at a time.

const AT_ONCE = 2;
const form = document.getElementById("upload");
const input = document.getElementById("file");
const list = document.getElementById("uploads");
const template = document.getElementById("upload-row");
const jobs = document.getElementById("jobs");
const maxBytes = Number(form.dataset.maxBytes);

const waiting = [];
const sending = new Set();
const arrived = new Map(); // job id -> its upload's row here, until the job's own row is in the list

// Words

function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = bytes / 1000;
  while (value >= 999.5 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${value >= 9.95 ? value.toFixed(0) : value.toFixed(1)} ${units[0]}`;
}

function left(seconds) {
  if (seconds < 10) return "a few seconds left";
  if (seconds < 55) return `about ${Math.round(seconds / 5) * 5} s left`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 60) return `about ${minutes} min left`;
  return `about ${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}

// One file on its way

class Upload {
  constructor(file, options) {
    this.file = file;
    this.options = options;
    this.row = template.content.cloneNode(true).firstElementChild;
    this.part(".sending-name").textContent = file.name;
    this.part(".sending-name").title = file.name;
    this.bar = this.part("progress");
    this.bar.setAttribute("aria-label", `Upload of ${file.name}`);
    for (const [name, act] of [["retry", () => this.queue()], ["stop", () => this.stop()]]) {
      const button = this.part(`[data-do=${name}]`);
      button.setAttribute("aria-label", `${button.textContent}: ${file.name}`);
      button.addEventListener("click", act);
    }
    list.append(this.row);
  }

  part(selector) {
    return this.row.querySelector(selector);
  }

  show(state, { error = "", retry = false } = {}) {
    this.part(".sending-state .number").textContent = state;
    this.part(".sending-error").textContent = error;
    this.part(".sending-error").hidden = !error;
    this.part("[data-do=retry]").hidden = !retry;
    this.bar.hidden = Boolean(error);
    this.row.classList.toggle("failed", Boolean(error));
    this.stopButton(error ? "Dismiss" : "Cancel");
  }

  stopButton(word) {
    const button = this.part("[data-do=stop]");
    button.textContent = word;
    button.setAttribute("aria-label", `${word}: ${this.file.name}`);
  }

  queue() {
    this.bar.value = 0;
    this.show(`${size(this.file.size)} · waiting`);
    waiting.push(this);
    next();
  }

  send() {
    sending.add(this);
    this.pace = { at: performance.now(), loaded: 0, speed: 0 };
    const body = new FormData();
    for (const [name, value] of this.options) body.append(name, value);
    body.append("file", this.file, this.file.name);
    const xhr = this.xhr = new XMLHttpRequest();
    xhr.upload.addEventListener("progress", (event) => this.progress(event));
    xhr.addEventListener("load", () => this.answered());
    xhr.addEventListener("error", () => this.fail(
      "The connection broke before the whole recording had arrived.", { retry: true }));
    xhr.addEventListener("loadend", () => { sending.delete(this); next(); });
    xhr.open("POST", "/api/jobs/upload");
    xhr.setRequestHeader("Accept", "application/json");
    xhr.send(body);
    this.show(`0% of ${size(this.file.size)}`);
  }

  progress({ loaded, total }) {
    this.bar.value = (100 * loaded) / total;
    if (loaded >= total) {
      this.show(`${size(this.file.size)} · checking`);
      return;
    }
    const speed = this.speed(loaded);
    const state = [`${Math.floor((100 * loaded) / total)}% of ${size(this.file.size)}`];
    if (speed > 0) state.push(`${size(speed)}/s`, left((total - loaded) / speed));
    this.show(state.join(" · "));
  }

  // Bytes a second, smoothed over about three seconds.
  speed(loaded) {
    const now = performance.now();
    const seconds = (now - this.pace.at) / 1000;
    if (seconds < 0.25) return this.pace.speed;
    const measured = (loaded - this.pace.loaded) / seconds;
    const weight = this.pace.speed ? 1 - Math.exp(-seconds / 3) : 1;
    this.pace = { at: now, loaded, speed: this.pace.speed + weight * (measured - this.pace.speed) };
    return this.pace.speed;
  }

  answered() {
    const answer = parsed(this.xhr.responseText);
    if (this.xhr.status === 201 && answer?.id) {
      this.arrive(answer);
      return;
    }
    const passing = this.xhr.status >= 500 || [408, 429].includes(this.xhr.status);
    this.fail(answer?.detail ?? `The server answered ${this.xhr.status}.`, { retry: passing });
  }

  fail(error, { retry = false } = {}) {
    this.show(size(this.file.size), { error, retry });
    announce(`${this.file.name}: ${error}`);
  }

  arrive(job) {
    this.show(`${size(this.file.size)} · uploaded`);
    this.bar.value = 100;
    this.part("[data-do=stop]").hidden = true;
    const open = this.part("[data-do=open]");
    open.href = `/jobs/${encodeURIComponent(job.id)}`;
    open.hidden = false;
    announce(`${this.file.name} is uploaded.`);
    arrived.set(job.id, this.row);
    handOver();
  }

  stop() {
    const index = waiting.indexOf(this);
    if (index >= 0) waiting.splice(index, 1);
    this.xhr?.abort();
    this.row.remove();
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, say
  }
}

function announce(text) {
  document.getElementById("said").textContent = text;
}

function next() {
  while (waiting.length && sending.size < AT_ONCE) waiting.shift().send();
}

// An upload's row goes when the job's own row is in the list, which the stream brings.
function handOver() {
  for (const [id, row] of arrived) {
    if (!document.getElementById(`job-${id}`)) continue;
    row.remove();
    arrived.delete(id);
  }
}

new MutationObserver(handOver).observe(jobs.parentElement, { childList: true, subtree: true });

// Files from the person

function take(files) {
  for (const file of files) {
    const upload = new Upload(file, chosenOptions());
    if (file.size === 0) upload.fail("This file is empty.");
    else if (file.size > maxBytes) upload.fail(`This file is too large; ${size(maxBytes)} can be taken.`);
    else upload.queue();
  }
}

function chosenOptions() {
  const fields = new FormData(form);
  fields.delete("file");
  return Array.from(fields).filter(([, value]) => value !== "");
}

input.multiple = true;
input.addEventListener("change", () => {
  take(input.files);
  input.value = ""; // so that the same file may be chosen again
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  input.click();
});

// The whole page takes what is dropped on it.

const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0; // of elements that are being dragged over

function dragging(on) {
  document.body.classList.toggle("dragging", on);
  if (!on) depth = 0;
}

addEventListener("dragenter", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  depth += 1;
  dragging(true);
});
addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
});
addEventListener("dragleave", (event) => {
  if (holdsFiles(event) && (depth -= 1) <= 0) dragging(false);
});
addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  dragging(false);
  take(dropped(event.dataTransfer));
});

// A folder comes as a file that cannot be read: it is told apart, and said.
function dropped(transfer) {
  const files = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const file = item.getAsFile();
    if (!item.webkitGetAsEntry?.()?.isDirectory) files.push(file);
    else new Upload(file, []).fail("This is a folder. Open it and drop the recordings in it.");
  }
  return files;
}

addEventListener("beforeunload", (event) => {
  if (sending.size || waiting.length) event.preventDefault();
});

// What has been chosen, readable while the options are closed.

function tellChosen() {
  const words = [];
  for (const select of form.querySelectorAll("select")) {
    const option = select.selectedOptions[0];
    if (select.name === "model") words.push(option.text);
    else if (!option.defaultSelected) words.push(select.name === "priority" ? `${option.text} priority` : option.text);
  }
  for (const tick of form.querySelectorAll("[data-chosen]:checked")) words.push(tick.dataset.chosen);
  document.getElementById("chosen").textContent = words.join(" · ");
}

form.addEventListener("change", tellChosen);
addEventListener("pageshow", tellChosen); // the browser may have put earlier choices back
tellChosen();
