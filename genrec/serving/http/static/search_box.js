// A field that finds items by title: a combobox with a list in which several may be ticked.
// https://www.w3.org/WAI/ARIA/apg/patterns/combobox/

import { element, nameOf } from "./lists.js";
import { findItems } from "./service.js";

const WAIT_MS = 120;

export class SearchBox {
  // `isPicked(item)` tells what has a tick, `toggle(items, picked)` gives or takes it, `say(text)`
  // speaks to a screen reader. With `all`, everything found may be picked at once.
  constructor(name, { isPicked, toggle, say, all = false, limit = 20 }) {
    this.input = document.getElementById(`${name}-search`);
    this.list = document.getElementById(`${name}-found`);
    Object.assign(this, { isPicked, toggle, say, all, limit });
    this.choices = []; // what each option stands for: one item, or all that were found
    this.active = -1;
    this.input.autocomplete = "off";
    this.input.spellcheck = false;
    this.list.setAttribute("role", "listbox");
    this.list.tabIndex = -1; // browsers let Tab stop at what scrolls
    this.list.setAttribute("aria-multiselectable", "true");
    for (const [key, value] of Object.entries({
      role: "combobox",
      "aria-autocomplete": "list",
      "aria-controls": this.list.id,
      "aria-expanded": "false",
    })) this.input.setAttribute(key, value);
    this.close();
    this.input.addEventListener("input", () => this.look());
    this.input.addEventListener("click", () => this.look());
    this.input.addEventListener("blur", () => this.close());
    this.input.addEventListener("keydown", (event) => this.press(event));
    document.addEventListener("pointerdown", ({ target }) => { // touching plain ground blurs nothing
      if (!this.input.parentElement.contains(target)) this.close();
    });
    // The field keeps the focus while the list is clicked or scrolled.
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.choose([...this.list.children].indexOf(option));
    });
  }

  look() {
    clearTimeout(this.timer);
    this.request?.abort();
    const words = this.input.value.trim();
    if (!words) return this.close();
    this.timer = setTimeout(async () => {
      this.request = new AbortController();
      try {
        const items = await findItems(words, this.limit, this.request.signal);
        if (document.activeElement === this.input) this.open(items);
      } catch (error) {
        if (error.name !== "AbortError") this.open([], error.message);
      }
    }, WAIT_MS);
    return undefined;
  }

  open(items, problem = "") {
    this.choices = items.map((item) => [item]);
    if (this.all && items.length > 1) this.choices.unshift(items);
    this.list.replaceChildren(...this.choices.map((choice, place) => this.option(choice, place)));
    const count = items.length;
    const more = count === this.limit ? ", perhaps more" : "";
    const text = problem || (count ? `${count} found${more}` : "Nothing found");
    if (!count) {
      const line = { class: "quiet", role: "option", "aria-disabled": "true" };
      this.list.append(element("li", line, text));
    }
    this.list.hidden = false;
    this.list.scrollTop = 0;
    this.input.setAttribute("aria-expanded", "true");
    this.activate(-1);
    this.say(text);
  }

  close() {
    clearTimeout(this.timer);
    this.request?.abort();
    this.list.hidden = true;
    this.list.replaceChildren();
    this.choices = [];
    this.input.setAttribute("aria-expanded", "false");
    this.activate(-1);
  }

  option(choice, place) {
    const line = element("li", { id: `${this.list.id}-${place}`, role: "option" });
    const [first] = choice;
    if (this.all && place === 0 && choice.length > 1) {
      line.append(element("strong", {}, `All ${choice.length} found`));
    } else {
      line.append(element("bdi", {}, nameOf(first)), element("code", {}, String(first.item)));
    }
    line.setAttribute("aria-selected", String(choice.every(this.isPicked)));
    return line;
  }

  choose(place) {
    const choice = this.choices[place];
    if (!choice) return;
    const picked = !choice.every(this.isPicked);
    this.toggle(choice, picked);
    const what = choice.length > 1 ? `${choice.length} items` : nameOf(choice[0]);
    this.say(`${picked ? "Added" : "Removed"} ${what}`);
    [...this.list.children].forEach((line, each) => {
      line.setAttribute("aria-selected", String(this.choices[each].every(this.isPicked)));
    });
    this.activate(place);
  }

  activate(place) {
    this.list.children[this.active]?.classList.remove("active");
    this.active = place;
    const line = this.choices[place] && this.list.children[place];
    if (!line) return this.input.removeAttribute("aria-activedescendant");
    line.classList.add("active");
    line.scrollIntoView({ block: "nearest" });
    return this.input.setAttribute("aria-activedescendant", line.id);
  }

  press(event) {
    const last = this.choices.length - 1;
    if (event.key === "Escape" && !this.list.hidden) {
      this.close();
    } else if (event.key === "ArrowDown" && this.list.hidden) {
      this.look();
    } else if (event.key === "ArrowDown") {
      this.activate(this.active < last ? this.active + 1 : 0);
    } else if (event.key === "ArrowUp") {
      this.activate(this.active > 0 ? this.active - 1 : last);
    } else if (event.key === "Enter" && !event.isComposing) {
      this.choose(Math.max(this.active, 0));
    } else {
      return;
    }
    event.preventDefault();
  }
}
