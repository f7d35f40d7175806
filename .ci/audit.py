"""Known vulnerabilities of the packages installed here; what is found and not excused fails.

python .ci/audit.py [URL of the service]. Where the service cannot be reached, one line says so, and nothing fails.
"""

import json
import subprocess
import sys
from urllib.error import URLError
from urllib.request import Request, urlopen

SERVICE = "https://api.osv.dev/v1/query"
EXCUSED: dict[str, str] = {}
"""By id (or an alias), why it does not concern us, and until which version it stands here."""
KNOWN = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "20.0"}
SECONDS = 5


def main(service: str) -> int:
    """Ask about everything that is installed; returns the exit code."""
    if reason := _unreachable(service):
        print(f"audit: not done, {service} cannot be reached ({reason})")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
    command += ["--format", "json", "--vulnerability-service", "osv", "--osv-url", service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(f"audit: failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        return 1
    found = [(package, each) for package in packages for each in package.get("vulns", [])]
    known = {name for _, each in found for name in _names(each)}
    for name in sorted(EXCUSED.keys() - known):
        print(f"audit: {name} is excused and not found any more; take it out of .ci/audit.py")
    left = [(package, each) for package, each in found if not EXCUSED.keys() & _names(each)]
    for package, each in left:
        fixed = ", ".join(each["fix_versions"]) or "nowhere yet"
        print(f"audit: {package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    asked = sum("vulns" in package for package in packages)
    print(f"audit: {asked} packages, {len(found)} vulnerabilities, {len(found) - len(left)} of them excused")
    return 1 if left else 0


def _names(vulnerability: dict) -> set[str]:
    return {vulnerability["id"], *vulnerability.get("aliases", [])}


def _unreachable(service: str) -> str:
    """Why the service does not answer a question as it should; nothing if it does."""
    question = Request(service, json.dumps(KNOWN).encode())  # noqa: S310 - the service's own address
    try:
        with urlopen(question, timeout=SECONDS) as answer:  # noqa: S310 - as above
            json.loads(answer.read())
    except (URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or [SERVICE])))
