import pytest
from tests.front import seed
from tests.front.test_console_page import console, open_console
from tests.front import consoles
pytestmark = pytest.mark.browser
def test_it(open_page, made, console, monkeypatch):
    vm = seed.machine(made, "web-1")
    page = open_console(open_page, made, vm)
    page.evaluate("""() => {window.__v=[]; document.addEventListener('securitypolicyviolation', e => window.__v.push([e.sourceFile.split('/').pop(), e.lineNumber, e.columnNumber, e.sample, e.effectiveDirective]))}""")
    page.screenshot(path="/tmp/page-tools/vnc.png")
    page.click("#view-button")
    page.screenshot(path="/tmp/page-tools/vnc-view.png")
    page.keyboard.press("Escape")
    page.click("#keys-button")
    page.screenshot(path="/tmp/page-tools/vnc-keys.png")
    page.keyboard.press("Escape")
    page.click("#tab-serial")
    page.wait_for_timeout(600)
    page.screenshot(path="/tmp/page-tools/serial.png")
    console.say(b"\x1b[38;2;250;100;10mtruecolor\x1b[0m plain \x1b[1;32mbold green\x1b[0m\r\n")
    page.wait_for_timeout(300)
    print(page.evaluate("window.__v"))
    page.click("#open-search")
    page.screenshot(path="/tmp/page-tools/serial2.png")
