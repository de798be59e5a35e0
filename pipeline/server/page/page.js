(() => {
  "use strict";
  const everyMs = 5000, typingMs = 250;

  // The server renders all there is. Only parts that changed are replaced; none while a reader has text selected in it,
  // and what had the keyboard's focus has it again.
  const nameOf = (element) => element.id || element.getAttribute("href");
  const isSelected = (part) => {
    const selection = getSelection();
    return !selection.isCollapsed && selection.containsNode(part, true);
  };
  const replace = (part, next) => {
    const focused = part.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    const scrolled = [...part.querySelectorAll(".scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
    part.replaceWith(next);
    [...next.querySelectorAll(".scroll")].forEach((each, number) => {
      [each.scrollLeft, each.scrollTop] = scrolled[number] ?? [0, 0];
    });
    if (focused === null) return;
    const again = [...next.querySelectorAll("a, button, input")].find((each) => nameOf(each) === focused);
    again?.focus({preventScroll: true});
  };
  const refresh = async () => {
    try {
      const answer = await fetch(location.href, {headers: {Accept: "text/html"}, cache: "no-store"});
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (!part.isEqualNode(next) && !isSelected(part)) replace(part, next);
      }
      document.title = fresh.title;
      document.body.classList.remove("stale");
    } catch {
      document.body.classList.add("stale");
    }
  };
  const go = (query) => {
    history.replaceState(null, "", query);
    refresh();
  };

  setInterval(() => document.hidden || refresh(), everyMs);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  document.addEventListener("click", (event) => {
    const link = event.target.closest("th a, .pages a");
    if (!link) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });
  let typing;
  document.getElementById("q").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const query = new URLSearchParams(location.search);
      query.set("q", event.target.value);
      go("?" + query);
    }, typingMs);
  });
  document.getElementById("find").addEventListener("submit", (event) => event.preventDefault());
})();
