// Tells the visitor when the server is gone: one that was started again knows nothing of this page.
(() => {
  const every = 2000, patience = 6000;
  let first = null, missed = 0;

  async function look() {
    try {
      const answer = await fetch("alive", { signal: AbortSignal.timeout(patience), cache: "no-store" });
      const started = await answer.text();
      first ??= started;
      missed = 0;
      tell(started === first ? "" : "The server was started again and knows nothing of this page. Load the page again.");
    } catch {
      missed += 1;
      if (missed > 1) tell("The server is gone. Start it again with e4t app, then load this page again.");
    }
    setTimeout(look, every);
  }

  function tell(text) {
    const line = document.getElementById("lost");
    if (line.textContent !== text) line.textContent = text;
  }

  // Gradio puts what is said into the page anew each time; read aloud is what changes inside of something that stays.
  function readAloud() {
    const lines = [document.getElementById("tuning"), document.getElementById("painting")];
    if (lines.every(Boolean)) lines.forEach((line) => line.setAttribute("aria-live", "polite"));
    else setTimeout(readAloud, 200);
  }

  function start() {
    const line = document.createElement("p");
    line.id = "lost";
    line.setAttribute("role", "alert");
    document.body.prepend(line);
    look();
    readAloud();
  }

  // Gradio may put this into the page after it has been read.
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
