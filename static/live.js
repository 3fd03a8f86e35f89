// Keeps an open page true and answers its buttons. htmx swaps what the streams send; this does the rest.

const byId = (id) => document.getElementById(id);

// Times, in words of how long ago, and in full in the reader's own zone.

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];
const inFull = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "short" });

function ago(seconds) {
  for (const [unit, length] of UNITS) {
    if (seconds < length) continue;
    const count = Math.floor(seconds / length);
    return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  }
  return "just now";
}

function until(seconds) {
  const left = Math.ceil(seconds);
  if (left < 1) return "when a worker is free";
  return left < 100 ? `in ${left} s` : `in ${Math.round(left / 60)} min`;
}

function countDown() {
  for (const time of document.querySelectorAll("time[data-until]")) {
    time.textContent = until((new Date(time.dateTime) - Date.now()) / 1000);
  }
}

function tellTimes() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const moment = new Date(time.dateTime);
    time.textContent = ago((Date.now() - moment) / 1000);
    time.title = inFull.format(moment);
  }
}

tellTimes();
setInterval(tellTimes, 20_000);
setInterval(countDown, 1000);
document.addEventListener("htmx:sseMessage", tellTimes);
document.addEventListener("htmx:afterSettle", tellTimes);

// The stream. Its address says what the page looked like when it was rendered; once it has been open, the page
// has moved on, so a stream opened anew has to send everything.

document.addEventListener("htmx:sseOpen", (event) => {
  const source = event.target;
  source.setAttribute("sse-connect", source.getAttribute("sse-connect").split("?")[0]);
  byId("offline").hidden = true;
});
document.addEventListener("htmx:sseError", () => { byId("offline").hidden = false; });
document.addEventListener("htmx:sseClose", () => { byId("offline").hidden = true; });

// The stream tells of every job; what is not in this list yet, further down, is of no use here. And stream and
// answer both tell of what a button did, so the second may find its row gone.
const ONE_ROW = /^<(?:li|div)\b[^>]* id="((?:job|state)-[^"]+)"[^>]* hx-swap-oob=/;

function isOfNoUse(fragment) {
  const id = ONE_ROW.exec(fragment.trimStart())?.[1];
  return id && !byId(id);
}

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (isOfNoUse(event.detail.data)) event.preventDefault();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (isOfNoUse(event.detail.serverResponse)) event.detail.shouldSwap = false;
});

// The browser's back button may show a page that was put to sleep, with its stream cut off.
addEventListener("pageshow", (event) => {
  const source = document.querySelector("[sse-connect]");
  if (!event.persisted || !source) return;
  const awake = source.cloneNode();
  awake.setAttribute("sse-connect", source.getAttribute("sse-connect").split("?")[0]);
  source.replaceWith(awake);
  htmx.process(awake);
});

// Deleting asks first, by name.

document.addEventListener("htmx:confirm", (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  const ask = byId("ask");
  byId("ask-text").textContent = event.detail.question;
  ask.returnValue = "no";
  ask.addEventListener("close", () => {
    if (ask.returnValue === "yes") event.detail.issueRequest(true);
  }, { once: true });
  ask.showModal();
});

// The keyboard stays where it was when a row goes.
document.addEventListener("htmx:oobBeforeSwap", (event) => {
  const row = event.detail.target;
  if (!row.classList.contains("job") || !row.contains(document.activeElement)) return;
  const next = row.nextElementSibling ?? row.previousElementSibling;
  const id = document.activeElement.id;
  setTimeout(() => {
    if (byId(id)) byId(id).focus();
    else (next?.querySelector("a") ?? byId("list-title"))?.focus();
  });
});

// What went wrong with a button.

let toastTimer;

function say(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, 8000);
}

document.addEventListener("htmx:sendError", () => say("The server does not answer. Try again in a moment."));
document.addEventListener("htmx:responseError", (event) => say(detailOf(event.detail.xhr)));

function detailOf(xhr) {
  try {
    return JSON.parse(xhr.responseText).detail ?? `The server answered ${xhr.status}.`;
  } catch {
    return `The server answered ${xhr.status}. Try again in a moment.`;
  }
}

// Copying the text.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const paragraphs = document.querySelectorAll(`${button.dataset.copy} .text`);
  const text = Array.from(paragraphs, (paragraph) => paragraph.textContent).join("\n\n");
  const was = button.textContent;
  button.textContent = (await copy(text)) ? "Copied" : "Could not copy";
  setTimeout(() => { button.textContent = was; }, 2000);
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyByCommand(text); // over plain http there is no clipboard API
  }
}

function copyByCommand(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
