"""Looks at a page with Chromium, without a driver: a DOM, a log and a screenshot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ENVIRONMENT_VARIABLE = "TF_SPHEREFACE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What the page measures about itself once it is laid out, inside a frame as wide as a phone (a
# window has a least width). Anything that sticks out of the frame is named.
PROBE = """
<!doctype html><html><body style="margin:0"><iframe id="frame" src="%s"
 style="border:0;width:%dpx;height:%dpx"></iframe><script>
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement, out = [];
  for (const element of page.body.querySelectorAll("*")) {
    if (element.ownerSVGElement) continue;  // clipped by its picture
    const box = element.getBoundingClientRect();
    if (box.right > root.clientWidth + 0.5 || box.left < -0.5) out.push(element.tagName);
  }
  const broken = [...page.images].filter(image => !image.naturalWidth).length;
  document.body.dataset.found = JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight, out, broken,
    background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    requests: frame.contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
  });
};
</script></body></html>
"""


def find() -> str | None:
    """Return the browser's command, or None where there is none."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


def look(
    browser: str, page: Path, work: Path, width: int, height: int = 800, dark: bool = False
) -> dict[str, Any]:
    """Lay a page out at a width; return what it measured, its console, and a screenshot's path."""
    probe, picture = work / "probe.html", work / f"{width}-{'dark' if dark else 'light'}.png"
    probe.write_text(PROBE % (page.resolve().as_uri(), width, height))
    common = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={work / 'profile'}", "--no-first-run", "--hide-scrollbars"),
        *("--allow-file-access-from-files", "--disable-background-networking"),
        *("--enable-logging=stderr", "--v=0", f"--window-size={max(width, 500)},{height}"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=3000",
    ]
    done = subprocess.run(
        [*common, "--dump-dom", f"--screenshot={picture}", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        errors="replace",
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    if not found or not picture.is_file():
        raise RuntimeError(f"the page did not load: {done.stderr[-2000:]}")
    log = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    values = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))
    return {**values, "console": log, "picture": picture}
