"use strict";

// The video plays by itself; this shows what the edge does meanwhile. Every address is relative, so the page
// works on any port and under any prefix.

const video = document.getElementById("video");

function show(id, text) {
  document.getElementById(id).textContent = text;
}

function milliseconds(since) {
  return `${(performance.now() - since).toFixed(1)} ms`;
}

/** Calls `task` now and `pause` ms after each time it has ended, however it ended. */
function repeat(pause, task) {
  task().catch(() => {}).finally(() => setTimeout(repeat, pause, pause, task));
}

// The picture.

function showVideo() {
  const ranges = video.buffered;
  const ahead = ranges.length ? ranges.end(ranges.length - 1) - video.currentTime : 0;
  show("position", `${video.currentTime.toFixed(1)} s`);
  show("buffer", `${Math.max(0, ahead).toFixed(1)} s`);
}
setInterval(showVideo, 250);

for (const [event, text] of [
  ["playing", "playing"],
  ["waiting", "waiting for data"],
  ["pause", "paused"],
]) {
  video.addEventListener(event, () => show("state", text));
}
// A browser gives up a live stream at the first thing it does not like; a viewer would press reload.
const MOST_TRIES = 5;
let tries = 0;
video.addEventListener("error", () => {
  if (!video.canPlayType("application/vnd.apple.mpegurl")) {
    show("state", "this browser does not play HLS by itself; try Chromium or Safari, or: ffplay " + video.currentSrc);
    return;
  }
  show("state", `cannot play: ${video.error.message}`);
  if (tries < MOST_TRIES) {
    tries += 1;
    setTimeout(() => {
      video.load();
      video.play().catch(() => {});
    }, 1000);
  }
});

// The API, and how long it takes.

repeat(3000, async () => {
  const start = performance.now();
  const answer = await fetch("api/time", { cache: "no-store" });
  if (!answer.ok) {
    show("api", `status ${answer.status}`);
    return;
  }
  show("clock", (await answer.json()).time.slice(11, 19) + " UTC");
  show("api", milliseconds(start));
  const entry = performance.getEntriesByType("resource").findLast((e) => e.name.endsWith("/api/time"));
  if (entry && entry.nextHopProtocol) {
    show("protocol", `${location.protocol.slice(0, -1)}, ${entry.nextHopProtocol}`);
  }
  const viewers = await fetch("api/viewers", { cache: "no-store" });
  if (viewers.ok) {
    show("viewers", (await viewers.json()).websockets);
  }
});

// The newest segment, and whether the edge had it.

repeat(2000, async () => {
  const playlist = await fetch("live/stream.m3u8", { cache: "no-store" });
  const names = (await playlist.text()).split("\n").filter((line) => line && !line.startsWith("#"));
  const name = names.at(-1);
  const segment = await fetch(`live/${name}`, { method: "HEAD", cache: "no-store" });
  show("segment", name);
  show("cache", segment.headers.get("X-Cache-Status") || "no edge asked");
});

// The WebSocket: what is sent comes back.

function echo() {
  const address = new URL("ws", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  let timer;
  const send = () => socket.send(performance.now());
  socket.onopen = () => {
    send();
    timer = setInterval(send, 1000);
  };
  socket.onmessage = (message) => show("websocket", milliseconds(Number(message.data)));
  socket.onclose = () => {
    clearInterval(timer);
    show("websocket", "closed");
    setTimeout(echo, 2000);
  };
}
echo();
