// 网址的 # 之后是所看的一切：语言、方法与网络、类别；前进、后退与刷新都照它来
const DATA = JSON.parse(part("data").textContent);
const LANGUAGES = ["en", "zh"];
let run = null, chosen = null;

function place(of, name, to = LANGUAGES[language]) {
  return `#${[to, of.key, ...(name === undefined ? [] : [name])].map(address).join("/")}`;
}

/** Take over what the address says; what it does not say is the first there is. */
function read() {
  const [to, key, name] = location.hash.slice(1).split("/");
  language = LANGUAGES.includes(to) ? LANGUAGES.indexOf(to) : Number(navigator.language.startsWith("zh"));
  run = DATA.runs.find((each) => address(each.key) === key) ?? DATA.runs[0];
  chosen = run.classes.find((each) => address(each.name) === name) ?? (run.rows ? null : run.classes[0]);
}

function runName(each) {
  return each.rows ? each.name : `${say("predictions")}${say("colon")}${each.name}`;
}

function showWords() {
  document.documentElement.lang = ["en", "zh-CN"][language];
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = say(element.dataset.label);
  const other = LANGUAGES[1 - language];
  const words = { textContent: say("other_language"), lang: other };
  Object.assign(part("language"), words, { href: place(run, chosen?.name, other) });
}

function showRuns() {
  const links = DATA.runs.map((each) => {
    const same = chosen && each.classes.find((one) => one.name === chosen.name); // 换网络，看同一类
    return make("a", { href: place(each, same?.name), ariaCurrent: each === run ? "page" : null }, runName(each));
  });
  part("runs").replaceChildren(...(links.length > 1 ? links : []));
}

function showWay() {
  const way = document.querySelector("#class .way");
  const i = run.classes.indexOf(chosen);
  const to = (each, words) => (each ? [make("a", { href: place(run, each.name) }, words)] : []);
  const [before, after] = [run.classes[i - 1], run.classes[i + 1]];
  way.hidden = !run.rows;
  way.replaceChildren(
    make("a", { href: place(run) }, say("all_classes")),
    ...to(before, `← ${before?.name}`),
    ...to(after, `${after?.name} →`),
  );
}

function show() {
  const [lastRun, last] = [run, chosen];
  read();
  if (large.open) large.close();
  showWords();
  showRuns();
  define(part("facts"), Object.entries(run.facts));
  part("facts").hidden = Boolean(chosen && run.rows);
  part("overview").hidden = Boolean(chosen);
  part("class").hidden = !chosen;
  if (chosen) {
    showWay();
    const row = run.rows?.find((each) => each.name === chosen.name);
    document.querySelector("#class > h2").textContent = chosen.name;
    define(part("merit"), row ? merits(row) : []);
    remark(part("remarks"), row ? [row] : []);
    showClass(chosen.name !== last?.name);
  } else {
    showOverview();
  }
  if (lastRun && (run !== lastRun || chosen !== last)) {
    scrollTo(0, 0);
    if (chosen) document.querySelector("#class > h2").focus({ preventScroll: true });
  }
}

addEventListener("hashchange", show);
show();
