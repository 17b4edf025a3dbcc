/* What the pages do beside htmx: times in the viewer's zone, copying, charts, the menu. Every page works without it. */
"use strict";
(() => {
  const page = document.documentElement.lang;
  const lang = navigator.languages.find((each) => each.split("-")[0] === page) || page;
  const long = new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "short" });
  const exact = new Intl.DateTimeFormat(lang, { dateStyle: "full", timeStyle: "long" });
  const day = new Intl.DateTimeFormat(lang, { day: "numeric", month: "short" });
  const hour = new Intl.DateTimeFormat(lang, { hour: "numeric", minute: "2-digit" });
  const since = new Intl.RelativeTimeFormat(lang, { numeric: "auto" });
  const STEPS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

  function ago(seconds) {
    const [unit, size] = STEPS.find(([, each]) => Math.abs(seconds) >= each) || ["second", 1];
    return since.format(Math.round(seconds / size), unit);
  }

  function times(root) {
    for (const each of root.querySelectorAll("time[datetime]")) {
      const text = each.getAttribute("datetime");
      const instant = new Date(text);
      if (!text.includes("T") || isNaN(instant)) continue;
      each.title = exact.format(instant);
      const near = (instant - Date.now()) / 1000;
      each.textContent = "ago" in each.dataset && Math.abs(near) < 604800 ? ago(near) : long.format(instant);
    }
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  function charts(root) {
    if (!window.uPlot) return;
    for (const each of root.querySelectorAll("[data-chart]")) {
      const { times: instants, series, kind } = JSON.parse(each.dataset.chart);
      const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
      const paths = kind === "bars" ? uPlot.paths.bars({ size: [0.7, 40] }) : uPlot.paths.linear();
      const options = {
        width: each.clientWidth || 300,
        height: 180,
        cursor: { drag: { x: false, y: false } },
        series: [
          { value: (_, seconds) => (seconds ? long.format(new Date(seconds * 1000)) : "–") },
          ...series.map(([label, tone]) => ({ label, stroke: colour(tone), fill: `${colour(tone)}55`, width: 1.5, paths, points: { show: kind !== "bars" } })),
        ],
        axes: [{ ...axis, values: (_, splits, __, ___, step) => splits.map((seconds) => (step >= 43200 ? day : hour).format(new Date(seconds * 1000))) }, { ...axis, size: 48 }],
      };
      each.replaceChildren();
      const drawn = new uPlot(options, [instants.map((text) => new Date(text) / 1000), ...series.map(([, , numbers]) => numbers)], each);
      new ResizeObserver(() => drawn.setSize({ width: each.clientWidth, height: 180 })).observe(each);
    }
  }

  async function copy(button) {
    const source = document.querySelector(button.dataset.copy);
    if (!source) return;
    const text = "value" in source ? source.value : source.textContent;
    try {
      await navigator.clipboard.writeText(text.trim());
    } catch {
      getSelection().selectAllChildren(source);
      return;
    }
    const label = button.textContent;
    button.textContent = document.body.dataset.copied;
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  /* A message beside its resources: what is chosen on one side lights up what belongs to it on the other. */
  function choose(chosen) {
    const pair = chosen.closest("[data-pair]");
    const keys = new Set(chosen.dataset.keys.split(" "));
    for (const each of pair.querySelectorAll("[data-keys]")) {
      each.classList.toggle("lit", each.dataset.keys.split(" ").some((key) => keys.has(key)));
      each.removeAttribute("aria-current");
    }
    chosen.setAttribute("aria-current", "true");
    const from = chosen.closest("section");
    const other = [...pair.querySelectorAll(".lit")].filter((each) => each.closest("section") !== from);
    if (other.length && other[0].closest("details")) other[0].closest("details").open = true;
    if (other.length) other[0].scrollIntoView({ block: "nearest" });
    const why = pair.querySelector("[data-why]");
    const line = chosen.matches(".line") ? chosen : pair.querySelector(".line.lit");
    if (why) why.textContent = line ? line.title : chosen.title;
  }

  function walk(region, step) {
    const lines = [...region.querySelectorAll("details[open] .line[data-keys]")];
    const now = lines.findIndex((each) => each.hasAttribute("aria-current"));
    let next = now < 0 ? 0 : now + step;
    while (lines[next] && now >= 0 && lines[next].title === lines[now].title) next += step;
    if (!lines[next]) return;
    choose(lines[next]);
    lines[next].scrollIntoView({ block: "nearest" });
  }

  /* The menu and filters are open where there is room for them, filters also where one is chosen. */
  const wide = matchMedia("(min-width: 60rem)");
  function fit(root) {
    for (const each of root.querySelectorAll("[data-menu]")) each.open = wide.matches || "chosen" in each.dataset;
  }

  function dress(root) {
    fit(root);
    times(root);
    charts(root);
    const lit = root.querySelector(".made .lit");
    if (lit) lit.closest(".made").scrollTop = lit.offsetTop - lit.closest(".made").offsetTop - 40;
    const asks = root.querySelector("[data-focus]");
    if (asks) asks.focus({ preventScroll: false });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
    const chosen = event.target.closest("[data-pair] [data-keys]");
    if (chosen) { event.preventDefault(); choose(chosen); }
    for (const each of document.querySelectorAll("details.dropdown[open]")) if (!each.contains(event.target)) each.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const region = event.target.closest(".made");
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (region && step) { event.preventDefault(); walk(region, step); }
    if (event.key !== "Escape") return;
    for (const each of document.querySelectorAll("details.dropdown[open]")) { each.open = false; each.querySelector("summary").focus(); }
  });
  document.addEventListener("change", (event) => {
    const file = event.target.closest("[data-most]");
    if (file) { file.setCustomValidity([...file.files].some((each) => each.size > Number(file.dataset.most)) ? file.dataset.large : ""); file.reportValidity(); }
    const all = event.target.closest("[data-submit]");
    if (all && all.form) all.form.requestSubmit();
  });
  /* Colours change on the page as it is: what is shown once stays, what was typed too. */
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-themes]")) return;
    event.preventDefault();
    const chosen = event.submitter;
    fetch(event.target.action, { method: "POST", body: new URLSearchParams(new FormData(event.target, chosen)), redirect: "manual" });
    if (chosen.value) document.documentElement.dataset.theme = chosen.value;
    else delete document.documentElement.dataset.theme;
    document.querySelector("meta[name=color-scheme]").content = chosen.value || "light dark";
    for (const each of event.target.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === chosen));
    charts(document);
  });
  /* A page that was open long: before its form is sent, it is asked whether the session is still there. Where it is not,
     what was typed stays; who signs in again in another tab goes on here. */
  const LONG = 300000;
  let asked = Date.now();
  let waits = false;
  async function alive() {
    const told = await fetch(document.body.dataset.alive, { cache: "no-store" }).then((answer) => answer.json(), () => ({}));
    if (told.user !== document.body.dataset.user) return false;
    for (const each of document.querySelectorAll("input[name=csrf]")) each.value = told.csrf;
    asked = Date.now();
    return true;
  }
  function say(name) {
    const said = document.getElementById("said");
    said.replaceChildren(document.getElementById(name).content.cloneNode(true));
    const note = said.firstElementChild;
    if (note.hasAttribute("tabindex")) note.focus();
  }
  function gone() { waits = true; say("gone"); }
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.method !== "post" || !document.body.dataset.alive || Date.now() - asked < LONG) return;
    event.preventDefault();
    const button = event.submitter;
    if (await alive()) form.requestSubmit(button);
    else gone();
  });
  document.addEventListener("visibilitychange", async () => {
    if (waits && !document.hidden && (await alive())) { waits = false; say("back"); }
  });
  /* Pages are written in the viewer's zone, and days of a search begin there. */
  function tellZone() {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `fhirserver_console_zone=${zone}; Path=/console; Max-Age=31536000; SameSite=Lax${secure}`;
  }
  document.addEventListener("DOMContentLoaded", () => {
    tellZone();
    wide.addEventListener("change", () => fit(document));
    dress(document);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts(document));
    /* What refreshes itself rests while nobody sees it, or while somebody reads what is open in it. */
    document.body.addEventListener("htmx:beforeRequest", (event) => {
      const element = event.detail.elt;
      const timed = !event.detail.requestConfig.triggeringEvent;
      if ("live" in element.dataset && timed && (document.hidden || element.querySelector("details[open]") || document.activeElement.closest("form.find"))) event.preventDefault();
    });
    document.body.addEventListener("htmx:beforeOnLoad", (event) => {
      const to = event.detail.xhr.getResponseHeader("HX-Redirect") || "";
      if (to.includes("/sign-in") && event.detail.elt.closest("form[method=post]")) { event.preventDefault(); gone(); }
    });
    document.body.addEventListener("htmx:load", (event) => { if (event.detail.elt !== document.body) dress(event.detail.elt); });
    document.body.addEventListener("htmx:configRequest", (event) => { if (event.detail.path === "") event.detail.path = location.pathname + location.search; });
  });
})();
