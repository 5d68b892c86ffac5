// How items are shown. Titles are text of strangers: they are only ever set as text.

export const keyOf = (item) => String(item.item);

export const nameOf = (item) => item.title || keyOf(item);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A title on its own: <bdi> keeps signs that turn the direction of writing inside it.
export const titled = (item) => element("bdi", {}, nameOf(item));

export function button(text, label, work) {
  const made = element("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", work);
  return made;
}

// Replace the lines of a list. Whoever stood on a button of it stands on the one that has come to
// its place afterwards, or on `otherwise` where there is none.
export function replaceLines(list, lines, otherwise) {
  const buttons = () => [...list.querySelectorAll("button")];
  const place = buttons().indexOf(document.activeElement);
  const top = list.scrollTop;
  list.replaceChildren(...lines);
  list.scrollTop = top;
  if (place >= 0) (buttons()[Math.min(place, buttons().length - 1)] ?? otherwise).focus();
}

export function pickedLine(item, place, remove, where) {
  const line = element("li", {}, titled(item));
  line.dataset.item = keyOf(item);
  line.append(button("×", `Remove ${nameOf(item)} from ${where}`, () => remove(place)));
  return line;
}

// Mark the lines of an item, or of none, and bring the first into view within its list.
export function pointAt(list, item) {
  const key = item && keyOf(item);
  const lines = [...list.children];
  for (const line of lines) line.classList.toggle("pointed", line.dataset.item === key);
  const line = lines.find((each) => each.classList.contains("pointed"));
  if (!line) return;
  const [top, bottom] = [line.offsetTop, line.offsetTop + line.offsetHeight - list.clientHeight];
  list.scrollTop = Math.max(Math.min(list.scrollTop, top), bottom);
}

function scoreText(score, popular) {
  if (popular) return `taken ${Math.round(score).toLocaleString("en")} times`;
  return score === null ? "" : `score ${score.toFixed(2).replace("-", "−")}`;
}

function codeParts({ codes, why }) {
  const shared = why?.shared_prefix ?? 0;
  const parts = codes.flatMap((code, level) => [
    element("code", { class: level < shared ? "code shared" : "code" }, String(code)),
    " ",
  ]);
  const label = element("span", { class: "unseen" }, "codes ");
  return element("span", { class: "codes" }, label, ...parts);
}

function whyParts({ codes, why }) {
  if (!why?.nearest) return [];
  const nearest = element("q", {}, titled(why.nearest));
  const total = codes?.length ?? 0;
  const shared = why.shared_prefix ?? 0;
  if (!total) return ["Nearest of the history: ", nearest];
  if (!shared) return ["Shares no code; nearest of the history: ", nearest];
  let which = `the first ${shared === 1 ? "" : `${shared} `}of ${total} codes`;
  if (shared === total) which = total === 1 ? "its code" : `all ${total} codes`;
  return [`Shares ${which} with `, nearest];
}

// One recommendation. `actions` has `add`, `hide`, and `point(item or null)`, which shows an item
// in the history.
export function resultLine(result, { taken, popular, actions }) {
  const name = nameOf(result);
  const score = element("span", {}, scoreText(result.score, popular));
  const facts = element("p", { class: "facts quiet" }, element("code", {}, keyOf(result)), " ", score);
  const body = element("div", { class: "body" }, element("h3", {}, titled(result)));
  if (taken) body.append(element("p", { class: "taken-next" }, "✓ Taken next"));
  body.append(facts);
  if (result.codes?.length) facts.append(" ", codeParts(result));
  const why = whyParts(result);
  if (why.length) body.append(element("p", { class: "why" }, ...why));
  const line = element(
    "li",
    { class: taken ? "result taken" : "result" },
    element("span", { class: "rank", "aria-hidden": "true" }, String(result.rank)),
    body,
    element(
      "div",
      { class: "actions" },
      button("Add", `Add ${name} to the history`, () => actions.add(result)),
      button("Hide", `Hide ${name}`, () => actions.hide(result)),
    ),
  );
  const nearest = why.length ? result.why.nearest : null;
  const pointing = { mouseenter: nearest, focusin: nearest, mouseleave: null, focusout: null };
  for (const [event, item] of Object.entries(pointing)) {
    line.addEventListener(event, () => actions.point(item));
  }
  return line;
}
