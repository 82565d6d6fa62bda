// 放大的一张；方向键看前后各张
const large = part("large");
let current = 0;

function openLarge(picture) {
  showLarge(shown.indexOf(picture));
  large.showModal();
}

function showLarge(index) {
  if (index < 0 || index >= shown.length) return;
  current = index;
  const picture = shown[index];
  part("large_file").textContent = picture.file;
  large.querySelector(".scroll").replaceChildren(
    picture.figure
      ? make("img", { alt: say("panels"), src: address(picture.figure) })
      : make("p", {}, say("no_figure")),
  );
  const badge = make("span", { className: "badge" }, say(picture.outcome));
  badge.dataset.outcome = picture.outcome;
  large.querySelector(".facts").replaceChildren(badge, ` ${facts(picture).join(" · ")}`);
  part("place").textContent = `${index + 1} / ${shown.length}`;
  part("before").disabled = index === 0;
  part("after").disabled = index === shown.length - 1;
}

part("before").addEventListener("click", () => showLarge(current - 1));
part("after").addEventListener("click", () => showLarge(current + 1));
// 听整个文档的：到了头的按钮失效，焦点便不在框里了
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (step === undefined || !large.open) return;
  event.preventDefault();
  showLarge(current + step);
});
large.addEventListener("click", (event) => {
  if (event.target === large) large.close(); // 点在外面
});
large.addEventListener("close", () => shown[current]?.card.firstChild.focus());
