// 总览：运行了什么、复现结论、各类别的表
const sorting = { column: null, descending: false };

/** Pairs of words and values in a definition list; a value of null is left out. */
function define(list, pairs) {
  const entry = ([key, value]) => make("div", {}, make("dt", {}, say(key)), make("dd", {}, value));
  list.replaceChildren(...pairs.filter(([, value]) => value !== null).map(entry));
}

/** What the run had to say of these classes, a line each; of several with their names. */
function remark(list, rows, named = false) {
  const words = (row, line) => (named ? row.name + say("colon") : "") + translated(line, REMARKS);
  const lines = rows.flatMap((row) => row.remarks.map((line) => words(row, line)));
  list.replaceChildren(...lines.map((line) => make("li", {}, line)));
  list.hidden = !lines.length;
}

/** One figure of a row in print. */
function printed(column, value) {
  if (column.startsWith("n_")) return String(value);
  if (column.endsWith("_interval")) return value.map((end) => end.toFixed(4)).join("–");
  if (column === "seconds") return value.toFixed(1);
  if (column.startsWith("published")) return value.toFixed(3);
  if (!column.startsWith("difference")) return value.toFixed(4);
  return (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(4);
}

/** A column or an average in words; one that this page does not know has its key. */
function heading(key) {
  return WORDS[key] ? say(key) : key;
}

/** A class's figures in words and values; the published one and the difference stand behind ours. */
function merits(row) {
  const own = DATA.columns.filter((column) => WORDS[column] && !/^(published|difference)_/.test(column));
  const ours = own.filter((column) => column in row.figures);
  return ours.map((column) => {
    const level = column.replace("_rocauc", "");
    const beside = [`published_${level}`, `difference_${level}`].filter((key) => key in row.figures);
    const compared = beside.map((key) => printed(key, row.figures[key])).join(", ");
    return [column, printed(column, row.figures[column]) + (compared && ` (${say("published_image")} ${compared})`)];
  });
}

function showVerdict() {
  const verdict = run.verdict;
  const line = document.getElementById("verdict");
  const keys = { true: "reproduced", false: "not_reproduced", null: "no_verdict" };
  const key = verdict ? keys[verdict.reproduced] : "incomplete";
  line.className = key;
  line.textContent = say(key) + (verdict ? say("colon") + translated(verdict.reason) : "");
}

function cells(row, columns, missing = "–") {
  return columns.map((column) => {
    const value = row.figures[column] ?? null;
    const outside = column.startsWith("difference") && value !== null && Math.abs(value) > run.tolerance;
    const className = outside ? "outside" : column.split("_")[0];
    return make("td", { className }, value === null ? missing : printed(column, value));
  });
}

function sorted(rows) {
  const { column, descending } = sorting;
  if (column === null) return rows;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  const value = (row) => (column === "class" ? row.name : ([row.figures[column]].flat()[0] ?? null)); // 区间按下端排
  return [...rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null); // 没有的总在最后
    return descending ? compare(b, a) : compare(a, b);
  });
}

function sortBy(column) {
  sorting.descending = sorting.column === column ? !sorting.descending : column !== "class";
  sorting.column = column;
  showTable();
  document.querySelector("th[aria-sort] button").focus(); // 表头是新画的
}

function showTable() {
  const columns = DATA.columns.filter((column) => run.rows.some((row) => (row.figures[column] ?? null) !== null));
  const isCompared = columns.some((column) => column.startsWith("difference"));
  part("note").textContent = say("table_note") + (isCompared ? say("outside_note", run.tolerance) : "");
  const [head, body, foot] = ["thead tr", "tbody", "tfoot"].map((part) => document.querySelector(`table ${part}`));
  head.replaceChildren(
    ...["class", ...columns].map((column) => {
      const button = make("button", { type: "button", onclick: () => sortBy(column) }, heading(column));
      const cell = make("th", { scope: "col" }, button);
      cell.dataset.column = column;
      if (sorting.column === column) cell.ariaSort = sorting.descending ? "descending" : "ascending";
      return cell;
    }),
  );
  body.replaceChildren(
    ...sorted(run.rows).map((row) => {
      const scored = run.classes.some((each) => each.name === row.name);
      const name = scored ? make("a", { href: place(run, row.name) }, row.name) : row.name;
      return make("tr", {}, make("th", { scope: "row" }, name), ...cells(row, columns));
    }),
  );
  // 没有打分的类没有自己的一页：它的话写在这里
  const apart = run.rows.filter((row) => !run.classes.some((each) => each.name === row.name));
  remark(part("others"), apart, true);
  const average = (row) => make("th", { scope: "row" }, heading(row.name));
  foot.replaceChildren(...run.averages.map((row) => make("tr", {}, average(row), ...cells(row, columns, ""))));
}

/** What is shown where no class is chosen. */
function showOverview() {
  showVerdict();
  showTable();
}

document.querySelector("tbody").addEventListener("click", (event) => {
  if (!event.target.closest("a")) event.target.closest("tr").querySelector("a")?.click();
});
