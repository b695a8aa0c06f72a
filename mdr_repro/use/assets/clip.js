"use strict";
const D = JSON.parse(document.getElementById("data").textContent),
  $ = (id) => document.getElementById(id);
function unpack(q) {
  const s = atob(q.data),
    wide = q.bytes === 2,
    out = new Float32Array(s.length / q.bytes);
  for (let i = 0; i < out.length; i++) {
    const code = wide ? s.charCodeAt(2 * i) + 256 * s.charCodeAt(2 * i + 1) : s.charCodeAt(i);
    out[i] = code === (wide ? 65535 : 255) ? NaN : q.low + q.step * code;
  }
  return out;
}
function nearest(at, t) {
  let best = 0;
  for (let c = 1; c < at.length; c++) if (Math.abs(at[c] - t) < Math.abs(at[best] - t)) best = c;
  const gap = Math.max(
    1,
    best ? at[best] - at[best - 1] : 0,
    best + 1 < at.length ? at[best + 1] - at[best] : 0,
  );
  return at.length && Math.abs(at[best] - t) <= gap / 2 + 1e-6 ? best : -1;
}
const [F, P, V, dims] = D.film.shape,
  film = unpack(D.film),
  rgb = D.palette.map((h) => [1, 3, 5].map((i) => parseInt(h.slice(i, i + 2), 16)));
const maps = D.maps.map((m) => ({
  ...m,
  values: unpack(m),
  column: D.at.map((t) => nearest(m.at, t)),
}));
const place = (m, v) => Math.min(1, Math.max(0, (v - m.ends[0]) / (m.ends[1] - m.ends[0] || 1)));
function color(u) {
  const x = u * (rgb.length - 1),
    i = Math.min(Math.floor(x), rgb.length - 2);
  return "rgb(" + rgb[i].map((a, c) => Math.round(a + (x - i) * (rgb[i + 1][c] - a))) + ")";
}

const state = {
  k: 0,
  time: 0,
  playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,
  speed: 1,
  layer: D.layer,
  kind: "f_R",
  person: 0,
  turn: 0,
  tilt: 0,
  follow: D.follow,
};
const map = () => maps.find((m) => m.layer === state.layer && m.kind === state.kind);
let seen = null,
  box = null;
function look() {
  // every joint of the film as it is seen from here
  const a = (state.turn * Math.PI) / 180,
    b = (state.tilt * Math.PI) / 180,
    [ca, sa, cb, sb] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
  seen = new Float32Array(F * P * V * 2);
  box = [Infinity, Infinity, -Infinity, -Infinity];
  let origin = [0, 0, 0];
  for (let k = 0; k < F; k++) {
    const c = ((k * P + state.person) * V + D.center) * dims;
    if (state.follow && film[c] === film[c])
      origin = [film[c], film[c + 1], dims > 2 ? film[c + 2] : 0];
    for (let n = k * P * V; n < (k + 1) * P * V; n++) {
      const x = film[n * dims] - origin[0],
        y = film[n * dims + 1] - origin[1],
        z = dims > 2 ? film[n * dims + 2] - origin[2] : 0;
      const p = [ca * x + sa * z, cb * y - sb * (ca * z - sa * x)];
      for (const i of [0, 1]) {
        seen[2 * n + i] = p[i];
        if (p[i] === p[i]) {
          box[i] = Math.min(box[i], p[i]);
          box[i + 2] = Math.max(box[i + 2], p[i]);
        }
      }
    }
  }
}
function sharp(canvas) {
  // a drawing context in CSS pixels
  const r = devicePixelRatio || 1,
    w = canvas.clientWidth,
    h = canvas.clientHeight,
    g = canvas.getContext("2d");
  if (canvas.width !== Math.round(w * r) || canvas.height !== Math.round(h * r)) {
    canvas.width = Math.round(w * r);
    canvas.height = Math.round(h * r);
  }
  g.setTransform(r, 0, 0, r, 0, 0);
  g.clearRect(0, 0, w, h);
  return [g, w, h];
}

function drawBody() {
  const [g, w, h] = sharp($("body")),
    m = map(),
    c = m ? m.column[state.k] : -1,
    scale = Math.min((w - 36) / (box[2] - box[0] || 1), (h - 36) / (box[3] - box[1] || 1));
  const X = (n) => w / 2 + (seen[2 * n] - (box[0] + box[2]) / 2) * scale,
    Y = (n) => h / 2 - (seen[2 * n + 1] - (box[1] + box[3]) / 2) * scale,
    there = (n) => seen[2 * n] === seen[2 * n];
  for (let p = 0; p < P; p++) {
    const first = (state.k * P + p) * V;
    D.edges.forEach(([a, b], e) => {
      if (!there(first + a) || !there(first + b)) return;
      g.beginPath();
      g.moveTo(X(first + a), Y(first + a));
      g.lineTo(X(first + b), Y(first + b));
      g.strokeStyle = m ? "#8a8a8a" : D.links[e];
      g.lineWidth = 3;
      g.lineCap = "round";
      g.stroke();
    });
    for (let v = 0; v < V; v++) {
      if (!there(first + v)) continue;
      const value = c < 0 ? NaN : m.values[(p * m.shape[1] + c) * V + v],
        u = value === value ? place(m, value) : -1;
      g.beginPath();
      g.arc(X(first + v), Y(first + v), u < 0 ? 3.5 : 3.5 + 5 * u, 0, 7);
      g.fillStyle = u >= 0 ? color(u) : m ? "#ccc" : D.sides[v];
      g.fill();
      if (m) {
        g.strokeStyle = "#444";
        g.lineWidth = 1;
        g.stroke();
      }
    }
    const heads = [...Array(V).keys()].map((v) => first + v).filter(there);
    if (P > 1 && heads.length) {
      const n = heads.reduce((a, b) => (Y(a) < Y(b) ? a : b));
      g.fillStyle = "#222";
      g.font = "bold 13px sans-serif";
      g.textAlign = "center";
      g.fillText(D.persons[p], X(n), Math.max(12, Y(n) - 12));
    }
  }
}

const left = 118,
  right = 10,
  above = 6,
  below = 40,
  row = Math.max(4, Math.min(15, Math.floor(420 / V)));
const across = (t, w) => left + ((t + 0.5) / D.frames) * (w - left - right);
let still = null;
function paintMap(m, w) {
  // once for every choice; the line is drawn over it
  still = document.createElement("canvas");
  still.width = D.at.length;
  still.height = V;
  const g = still.getContext("2d");
  D.at.forEach((t, k) =>
    D.rows.forEach((v, y) => {
      const value =
        m.column[k] < 0 ? NaN : m.values[(state.person * m.shape[1] + m.column[k]) * V + v];
      g.fillStyle = value === value ? color(place(m, value)) : "#ccc";
      g.fillRect(k, y, 1, 1);
    }),
  );
}

function drawMap() {
  const m = map();
  if (!m) return;
  const [g, w] = sharp($("map")),
    step = Math.ceil(11 / row),
    ticks = Math.max(1, Math.ceil(D.frames / Math.max(2, Math.floor(w / 90)) / 5) * 5);
  if (!still) paintMap(m, w);
  g.imageSmoothingEnabled = false;
  g.drawImage(still, left, above, w - left - right, V * row);
  g.font = "12px sans-serif";
  g.textBaseline = "middle";
  D.rows.forEach((v, y) => {
    g.fillStyle = D.sides[v];
    g.fillRect(left - 8, above + y * row + 1, 5, Math.max(1, row - 2));
    g.fillStyle = "#222";
    g.textAlign = "right";
    if (y % step === 0) g.fillText(D.joints[v], left - 12, above + (y + 0.5) * row, left - 14);
  });
  g.textAlign = "center";
  for (let t = 0; t < D.frames; t += ticks) {
    g.fillText(t, across(t, w), above + V * row + 11);
    g.fillRect(across(t, w), above + V * row, 1, 4);
  }
  g.fillText("frame of the clip", (left + w - right) / 2, above + V * row + 29);
  const x = across(D.at[state.k], w);
  g.fillStyle = "#fff";
  g.fillRect(x - 2, above, 4, V * row);
  g.fillStyle = "#111";
  g.fillRect(x - 1, above, 2, V * row);
}

function most(m, columns) {
  // joints by their mean over some columns
  const found = [];
  for (let v = 0; v < V; v++) {
    const known = columns
      .map((c) => m.values[(state.person * m.shape[1] + c) * V + v])
      .filter((x) => x === x);
    if (known.length) found.push([D.joints[v], known.reduce((a, b) => a + b) / known.length]);
  }
  return found
    .sort((a, b) => b[1] - a[1])
    .slice(0, 3)
    .map(([name, x]) => name + " " + x.toFixed(2))
    .join(", ");
}
function say(frame) {
  $("frame").value = state.k;
  $("framesaid").textContent = D.at[state.k] + " of " + (D.frames - 1);
  $("frame").setAttribute("aria-valuetext", "frame " + D.at[state.k]);
  const m = map();
  if (!m) return;
  const c = m.column[state.k],
    now = c < 0 ? "" : most(m, [c]);
  if (!state.playing || state.k % 10 === 0)
    $("now").textContent = now
      ? "In this frame: " + now + " times the mean."
      : "The network is shown nothing of this person near this frame.";
  if (frame) return;
  const whole = most(
    m,
    m.at.map((t, c) => c),
  );
  $("whole").textContent = whole
    ? "Over the clip: " + whole + " times the mean."
    : "Nothing is known of this person.";
  $("low").textContent = m.ends[0].toFixed(2);
  $("high").textContent = m.ends[1].toFixed(2);
  $("layersaid").textContent = "B" + m.layer + " of " + D.layers;
  $("layer").setAttribute("aria-valuetext", "layer B" + m.layer);
  $("map").setAttribute(
    "aria-label",
    "Map of layer B" +
      m.layer +
      " over " +
      V +
      " joints and " +
      D.frames +
      " frames. " +
      $("whole").textContent,
  );
}

function refresh(all) {
  if (all) {
    still = null;
    look();
  }
  drawBody();
  drawMap();
  say(!all);
}
function go(k) {
  state.k = (k + F) % F;
  state.time = D.at[state.k];
  refresh(false);
}
function playing(on) {
  state.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
}
const bind = (id, event, change) => {
  if ($(id)) $(id).addEventListener(event, (e) => change(e.target));
};
bind("play", "click", () => playing(!state.playing));
bind("frame", "input", (e) => {
  playing(false);
  go(+e.value);
});
bind("speed", "change", (e) => {
  state.speed = +e.value;
});
bind("person", "change", (e) => {
  state.person = +e.value;
  refresh(true);
});
bind("follow", "change", (e) => {
  state.follow = e.checked;
  refresh(true);
});
bind("layer", "input", (e) => {
  state.layer = +e.value;
  refresh(true);
});
for (const id of ["turn", "tilt"])
  bind(id, "input", (e) => {
    state[id] = +e.value;
    $(id + "said").textContent = e.value + "\u00b0";
    refresh(true);
  });
for (const e of document.querySelectorAll("input[name=kind]"))
  e.addEventListener("change", () => {
    state.kind = e.value;
    refresh(true);
  });
if (maps.length) {
  $("map").style.height = above + V * row + below + "px";
  $("scale").style.background = "linear-gradient(90deg," + D.palette + ")";
  $("map").addEventListener("pointerdown", (e) => {
    const w = $("map").clientWidth,
      t = ((e.offsetX - left) / (w - left - right)) * D.frames;
    playing(false);
    go(Math.max(0, Math.min(F - 1, Math.round((t / D.frames) * F - 0.5))));
  });
}

addEventListener("resize", () => refresh(true));
let last = null;
function tick(now) {
  if (state.playing && last !== null) {
    state.time = (state.time + Math.min(0.2, (now - last) / 1000) * D.fps * state.speed) % D.frames;
    const k = Math.min(F - 1, Math.floor((state.time / D.frames) * F));
    if (k !== state.k) {
      state.k = k;
      refresh(false);
    }
  }
  last = now;
  requestAnimationFrame(tick);
}
playing(state.playing);
refresh(true);
requestAnimationFrame(tick);
