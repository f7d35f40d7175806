// Shows a message when the server is gone, or was restarted and has lost the state of this page.
(() => {
  const pollMs = 2000, timeoutMs = 6000;
  let serverId = null, missed = 0;

  async function poll() {
    try {
      const response = await fetch("alive", { signal: AbortSignal.timeout(timeoutMs), cache: "no-store" });
      const currentId = await response.text();
      serverId ??= currentId;
      missed = 0;
      showMessage(currentId === serverId ? "" : "The server was restarted. Reload this page.");
    } catch {
      missed += 1;
      if (missed > 1) showMessage("The server is gone. Start it with e4t app, then reload this page.");
    }
    setTimeout(poll, pollMs);
  }

  function showMessage(text) {
    const line = document.getElementById("connection-error");
    if (line.textContent !== text) line.textContent = text;
  }

  // Gradio replaces the status lines. Screen readers announce changes inside elements that stay, so mark their containers.
  function announceStatus() {
    const lines = [document.getElementById("tuning"), document.getElementById("generation")];
    if (lines.every(Boolean)) lines.forEach((line) => line.setAttribute("aria-live", "polite"));
    else setTimeout(announceStatus, 200);
  }

  function start() {
    const line = document.createElement("p");
    line.id = "connection-error";
    line.setAttribute("role", "alert");
    document.body.prepend(line);
    poll();
    announceStatus();
  }

  // Gradio may insert this script after the page has been parsed.
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
