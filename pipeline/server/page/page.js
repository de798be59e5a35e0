(() => {
  "use strict";
  const everyMs = 5000, typingMs = 250;

  // The server renders all there is; what is shown is replaced part by part, so that fields keep focus and text.
  const refresh = async () => {
    try {
      const answer = await fetch(location.href, {headers: {Accept: "text/html"}, cache: "no-store"});
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const scrolled = part.querySelector(".scroll")?.scrollLeft ?? 0;
        const next = fresh.getElementById(part.id);
        part.replaceWith(next);
        if (scrolled) next.querySelector(".scroll").scrollLeft = scrolled;
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
    const link = event.target.closest("th a");
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
