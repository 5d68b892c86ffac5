// The page: what was picked, what is asked for it, and what came back.

import {
  button, keyOf, nameOf, pickedLine, pointAt, replaceLines, resultLine, titled,
} from "./lists.js";
import { SearchBox } from "./search_box.js";
import { info, randomUser, recommend } from "./service.js";

const at = (id) => document.getElementById(id);
const say = (text) => { at("said").textContent = text; };

// Lists of {item, title}; `history` is oldest first. `user` is the random user, if any, with what
// he took next; `changed` tells whether the history is still his.
const state = { history: [], exclude: [], allow: [], user: null, changed: false };
const LISTS = {
  history: "the history",
  exclude: "the items never shown",
  allow: "the only items shown",
};

const holds = (name, item) => state[name].some((each) => keyOf(each) === keyOf(item));

function setList(name, items) {
  state[name] = items;
  if (name === "history") state.changed = true;
  show();
}

function toggle(name, items, picked) {
  const keys = new Set(items.map(keyOf));
  const others = state[name].filter((each) => !keys.has(keyOf(each)));
  setList(name, picked ? [...others, ...items] : others);
}

function showLists() {
  for (const [name, where] of Object.entries(LISTS)) {
    const remove = (place) => setList(name, state[name].toSpliced(place, 1));
    const lines = state[name].map((item, place) => pickedLine(item, place, remove, where));
    if (name === "history") lines.reverse();
    replaceLines(at(name), lines, at(`${name}-search`));
    at(name).hidden = !lines.length;
  }
  const { user, changed } = state;
  at("clear").hidden = !state.history.length;
  at("history-empty").hidden = state.history.length > 0;
  at("history-heading").textContent = state.history.length
    ? `History, newest first (${state.history.length})` : "History";
  at("owner").hidden = !user;
  at("owner").textContent = user ? `User ${user.user}${changed ? ", changed by you" : ""}` : "";
  const set = [state.exclude.length, state.allow.length, !at("exclude-seen").checked];
  const on = set.filter(Boolean).length;
  at("filters-on").textContent = on ? `(${on} set)` : "";
  at("filters-off").hidden = !on;
}

function whereNext(next, items, found) {
  if (found) return `rank ${found.rank} below`;
  if (at("exclude-seen").checked && holds("history", next)) {
    return "left out, as the history holds it";
  }
  const allowed = !state.allow.length || holds("allow", next);
  if (holds("exclude", next) || !allowed) return "left out by a filter";
  return `not among the ${items.length} shown`;
}

function showResults({ items, popular }, took) {
  const next = state.user?.next ?? null;
  const actions = {
    add: (item) => { say(`Added ${nameOf(item)}`); toggle("history", [item], true); },
    hide: (item) => { say(`Hidden: ${nameOf(item)}`); toggle("exclude", [item], true); },
    point: (item) => pointAt(at("history"), item),
  };
  const taken = (item) => next !== null && keyOf(item) === keyOf(next);
  const lines = items.map((item) => resultLine(item, { taken: taken(item), popular, actions }));
  replaceLines(at("results"), lines, at("results-heading"));
  at("results-heading").textContent = popular ? "What is popular" : "Recommendations";
  at("next").hidden = next === null;
  at("next").replaceChildren();
  if (next) {
    const found = items.find(taken);
    at("next").classList.toggle("found", found !== undefined);
    at("next").append("Took next: ", titled(next), `, ${whereNext(next, items, found)}`);
  }
  at("status").textContent = summary(items.length, popular, took);
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function summary(shown, popular, took) {
  const had = state.history.length;
  if (!shown) return had ? "Nothing is left to show: loosen the filters." : "Nothing to show yet.";
  const what = `${counted(shown, "item")}${popular ? "" : ` after a history of ${had}`}`;
  return `${what}${popular && had ? ", as nothing of the history is known" : ""}, in ${took} ms`;
}

function fail(error, again) {
  at("error").replaceChildren(error.message);
  if (error.passing) at("error").append(" ", button("Try again", "Try again", again));
}

function forgive() {
  if (at("error").contains(document.activeElement)) at("results-heading").focus();
  at("error").replaceChildren();
}

let running = null;

// Runs one piece of work at a time: a newer one takes the place of an older one.
async function work(task, again) {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  at("results").setAttribute("aria-busy", "true");
  try {
    await task(mine.signal);
    if (running === mine) forgive();
  } catch (error) {
    if (running === mine) fail(error, again);
  } finally {
    if (running === mine) at("results").removeAttribute("aria-busy");
  }
}

function show() {
  showLists();
  const request = {
    histories: [state.history.map(keyOf)],
    users: [state.user?.user ?? "guest"], // for models that know users
    k: Number(at("count").value),
    exclude_seen: at("exclude-seen").checked,
    on_unknown: "ignore",
    explain: true,
  };
  if (state.exclude.length) request.exclude = state.exclude.map(keyOf);
  if (state.allow.length) request.allow = state.allow.map(keyOf);
  work(async (signal) => {
    const began = performance.now();
    const found = await recommend(request, signal);
    showResults(found, Math.round(performance.now() - began));
  }, show);
}

function takeUser() {
  work(async (signal) => {
    const user = await randomUser(signal);
    Object.assign(state, { history: user.history, user, changed: false });
    say(`User ${user.user}, ${user.history.length} items`);
    show();
  }, takeUser);
}

for (const name of Object.keys(LISTS)) {
  new SearchBox(name, {
    isPicked: (item) => holds(name, item),
    toggle: (items, picked) => toggle(name, items, picked),
    say,
    all: name === "allow",
    limit: name === "allow" ? 100 : 20,
  });
}
at("random").addEventListener("click", takeUser);
at("clear").addEventListener("click", () => {
  state.user = null;
  setList("history", []);
  at(at("random").hidden ? "history-search" : "random").focus();
});
at("filters-off").addEventListener("click", () => {
  at("exclude-seen").checked = true;
  Object.assign(state, { exclude: [], allow: [] });
  at("exclude-search").focus();
  show();
});
for (const id of ["exclude-seen", "count"]) at(id).addEventListener("change", show);
info().then((served) => {
  const items = `${served.num_items.toLocaleString("en")} items`;
  at("about").textContent = [served.dataset, items, served.kind].filter(Boolean).join(", ");
  at("random").hidden = served.num_users === 0 || !served.random_user;
}, () => {}); // what it says is missed, but recommendations do not need it
show();
