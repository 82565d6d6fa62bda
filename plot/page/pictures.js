// 一个类别：阈值、计数、筛选、排序与各张图片
const BINS = 60, STEPS = 1000;
const part = (id) => document.getElementById(id);
const wanted = new Set(); // 只看这些结果；空为全看
let pictures = [], ordered = [], shown = [], threshold = null;
const LINEAR = { to: Number, from: Number };
const LOGARITHMIC = { to: (score) => Math.log(Math.max(score, Number.MIN_VALUE)), from: Math.exp };
let axis = LINEAR, start = 0, end = 1; // 横轴，与它的两端：换到轴上之后

/** The pictures of a class, from the columns in which they are stored. */
function unpack(each) {
  const whole = (names, i) => (names.rest[i] === null ? null : names.start + names.rest[i]);
  return each.scores.map((score, i) => {
    const file = whole(each.files, i);
    return {
      file, score,
      figure: whole(each.figures, i),
      kind: each.kinds ? each.kinds.names[each.kinds.of[i]] : null,
      label: each.labels ? each.labels[i] : null,
      rarity: each.p_values ? each.p_values[i] : null,
    };
  });
}

/** What the threshold makes of a picture; of one without a label it is the decision itself. */
function outcome(picture) {
  if (threshold === null) return "undecided";
  const flagged = picture.score >= threshold * (1 - DATA.rounding); // 与 predict.py 相同
  if (picture.label === null) return flagged ? "defect" : "good";
  return flagged ? (picture.label ? "found" : "alarm") : picture.label ? "missed" : "passed";
}

function decision(picture) {
  return say({ found: "defect", alarm: "defect", missed: "good", passed: "good" }[picture.outcome] ?? picture.outcome);
}

/** What is known of a picture besides its outcome. */
function facts(picture) {
  return [
    say("score", short(picture.score)),
    picture.rarity === null ? null : say("p_value", short(picture.rarity, 3)),
    picture.label === null ? null : say("labelled", say(picture.label ? "defective" : "normal")),
    picture.label === null ? null : say("decision", decision(picture)),
  ].filter((fact) => fact !== null);
}

function card(picture) {
  const lazy = { loading: "lazy", decoding: "async", alt: say("panels"), onload: setRatio };
  const image = picture.figure ? make("img", { ...lazy, src: address(picture.figure) }) : null;
  picture.facts = make("span", { className: "facts" });
  picture.badge = make("span", { className: "badge" });
  const button = make(
    "button", { type: "button", onclick: () => openLarge(picture) },
    image, make("span", { className: "file" }, picture.file), picture.facts, picture.badge,
  );
  picture.card = make("li", { className: image ? "card" : "row" }, button);
  mark(picture);
}

/** The figures of a class are all of one size: the first that is there tells how much room the others need. */
function setRatio() {
  const style = part("pictures").style;
  if (style.getPropertyValue("--ratio")) return;
  style.setProperty("--ratio", `${this.naturalWidth} / ${this.naturalHeight}`);
  style.setProperty("--height", `${this.closest("li").offsetHeight}px`);
}

function mark(picture) {
  picture.card.dataset.outcome = picture.badge.dataset.outcome = picture.outcome;
  picture.badge.textContent = say(picture.outcome);
  picture.facts.textContent = facts(picture).join(" · ");
}

/** The steps of a histogram as the outline of an area, in a box of BINS × 100. */
function outline(scores, most) {
  const heights = count(scores).map((n) => 100 - (98 * n) / most);
  return `M0 100${heights.map((y, i) => `V${y.toFixed(2)}H${i + 1}`).join("")}V100Z`;
}

function count(scores) {
  const counts = new Array(BINS).fill(0);
  for (const score of scores) counts[Math.min(BINS - 1, Math.floor(BINS * share(score)))] += 1;
  return counts;
}

/** Where a score lies on the axis, from 0 to 1. */
function share(score) {
  return (axis.to(score) - start) / (end - start);
}

function showHistogram(each) {
  const scores = pictures.map((picture) => picture.score);
  axis = each.logarithmic ? LOGARITHMIC : LINEAR;
  const [least, most] = [Math.min, Math.max].map((extreme) => axis.to(scores.reduce((a, b) => extreme(a, b))));
  const margin = 0.03 * (most - least) || Math.max(0.03 * Math.abs(most), 1e-3); // 两端之外：全判缺陷，全判正常
  [start, end] = [least - margin, most + margin];
  const groups = { good: [], defect: [] };
  for (const picture of pictures) groups[picture.label ? "defect" : "good"].push(picture.score);
  const tallest = Math.max(...Object.values(groups).flatMap(count));
  for (const [name, members] of Object.entries(groups)) {
    document.querySelector(`svg .${name}`).setAttribute("d", outline(members, tallest));
  }
  const key = (name, word) => make("span", { className: `key ${name}` }, say(word));
  document.querySelector(".legend").replaceChildren(
    ...(each.labels ? [key("good", "normal"), key("defect", "defective")] : []),
    make("span", { className: "note" }, say("tallest", tallest)),
  );
  part("low").textContent = short(axis.from(start), 4);
  part("high").textContent = short(axis.from(end), 4);
  part("scale").textContent = say(each.logarithmic ? "logarithmic_axis" : "score_axis");
}

/** How the scores lie among those of good pictures: a bar a twentieth of these, behind it what is usual. */
function showDrift(drift) {
  part("drift").hidden = !drift;
  if (!drift) return;
  part("drift_said").textContent = translated(drift.sentence);
  const bars = drift.parts.map(([found, usual, margin], i) => ({ i, found, ends: [usual - margin, usual + margin] }));
  const most = Math.max(...bars.flatMap(({ found, ends }) => [found, ends[1]]));
  const y = (share) => (100 - (98 * Math.max(0, share)) / most).toFixed(2);
  const isWithin = ({ found, ends }) => found >= ends[0] && found <= ends[1];
  const draw = (name, those, path) => document.querySelector(`#drift .${name}`).setAttribute("d", those.map(path).join(""));
  draw("band", bars, ({ i, ends }) => `M${i} ${y(ends[0])}V${y(ends[1])}h1V${y(ends[0])}Z`);
  const bar = ({ i, found }) => `M${i}.15 100V${y(found)}h0.7V100Z`;
  draw("within", bars.filter(isWithin), bar);
  draw("outside", bars.filter((each) => !isWithin(each)), bar);
}

/** Take another threshold; everything that depends on it follows. */
function setThreshold(value) {
  chosen.moved = threshold = value;
  const slider = part("slider");
  slider.value = value === null ? STEPS : Math.round(STEPS * share(value));
  slider.ariaValueText = short(value, 7);
  if (document.activeElement !== part("threshold")) part("threshold").value = value === null ? "" : short(value, 7);
  part("stored").disabled = value === chosen.threshold;
  update();
}

function update() {
  for (const picture of pictures) {
    const now = outcome(picture);
    if (picture.outcome === now) continue;
    picture.outcome = now;
    if (picture.card) mark(picture);
  }
  showCounts();
  filter();
}

function showCounts() {
  const of = (name) => pictures.filter((picture) => picture.outcome === name).length;
  for (const tile of part("outcomes").children) {
    tile.ariaPressed = String(wanted.has(tile.dataset.outcome));
    tile.querySelector("strong").textContent = threshold === null ? "–" : of(tile.dataset.outcome);
  }
  const share = (found, all) => (threshold === null || !all ? "–" : (found / all).toFixed(3));
  const [found, missed, alarm] = ["found", "missed", "alarm"].map(of);
  const rates = chosen.labels ? { precision: share(found, found + alarm), recall: share(found, found + missed) } : {};
  part("rates").replaceChildren(
    ...Object.entries(rates).map(([name, value]) => {
      const rate = make("span", {}, `${say(name)} `, make("strong", {}, value));
      rate.dataset.rate = name;
      return rate;
    }),
  );
}

const ORDERS = {
  score: (a, b) => b.score - a.score,
  name: (a, b) => a.file.localeCompare(b.file, undefined, { numeric: true }),
  distance: (a, b) => Math.abs(a.score - threshold) - Math.abs(b.score - threshold),
};

/** Put the cards in order; that by distance follows the threshold once it rests: nothing jumps while it moves. */
function order() {
  const now = [...pictures].sort(ORDERS[part("sort").value]);
  if (now.some((picture, i) => picture !== ordered[i])) {
    ordered = now;
    part("pictures").replaceChildren(...ordered.map((picture) => picture.card));
  }
  filter();
}

/** Hide the cards that are not wanted. */
function filter() {
  const [label, kind] = chosen.labels ? [part("label").value, part("kind").value] : ["", ""];
  const isWanted = (picture) =>
    (!label || picture.label === Number(label)) &&
    (!kind || picture.kind === kind) &&
    (!wanted.size || wanted.has(picture.outcome));
  shown = ordered.filter((picture) => {
    const wantedNow = isWanted(picture);
    if (picture.card.hidden === wantedNow) picture.card.hidden = !wantedNow;
    return wantedNow;
  });
  part("shown").textContent = say("shown", shown.length, pictures.length);
}

function tile(name) {
  const toggle = () => {
    if (!wanted.delete(name)) wanted.add(name);
    showCounts();
    filter();
  };
  const badge = make("span", { className: "badge" }, say(name));
  const button = make("button", { type: "button", onclick: toggle }, make("strong", {}), badge);
  button.dataset.outcome = badge.dataset.outcome = name;
  return button;
}

function showKinds() {
  const names = chosen.kinds?.names ?? [];
  const number = (k) => chosen.kinds.of.filter((of) => of === k).length;
  const options = names.map((kind, k) => make("option", { value: kind }, `${kind} (${number(k)})`));
  const before = part("kind").value;
  part("kind").replaceChildren(make("option", { value: "" }, say("any")), ...options);
  if (names.includes(before)) part("kind").value = before; // 换网络、换语言时保留
}

/** Everything about the class that is chosen; ``isNew`` where another one was shown before. */
function showClass(isNew) {
  if (isNew) wanted.clear();
  pictures = unpack(chosen);
  ordered = [];
  const names = chosen.labels ? ["found", "missed", "alarm", "passed"] : ["defect", "good"];
  for (const name of wanted) if (!names.includes(name)) wanted.delete(name);
  part("outcomes").replaceChildren(...names.map(tile));
  for (const element of document.querySelectorAll(".labelled")) element.hidden = !chosen.labels;
  part("stored").hidden = chosen.threshold === null;
  part("stored").textContent = say("stored", short(chosen.threshold));
  part("origin").textContent = chosen.threshold === null ? say("no_threshold") : translated(chosen.origin);
  part("pictures").style.removeProperty("--ratio");
  part("pictures").classList.toggle("list", pictures.some((picture) => !picture.figure));
  showKinds();
  showHistogram(chosen);
  showDrift(chosen.drift);
  threshold = chosen.moved === undefined ? chosen.threshold : chosen.moved;
  for (const picture of pictures) {
    picture.outcome = outcome(picture);
    card(picture);
  }
  setThreshold(threshold);
  order();
}

part("slider").addEventListener("input", ({ target }) =>
  setThreshold(Number(axis.from(start + ((end - start) * target.value) / STEPS).toPrecision(6))),
);
part("threshold").addEventListener("input", ({ target }) => {
  if (Number.isFinite(target.valueAsNumber)) setThreshold(target.valueAsNumber);
});
part("stored").addEventListener("click", () => {
  setThreshold(chosen.threshold);
  order();
});
part("bench").addEventListener("change", order);
part("choice").addEventListener("change", order);
part("choice").addEventListener("submit", (event) => event.preventDefault());
