"""A pod of every kind at one port: /good, /html (a login page with status 200), /slow (after 30 s), /truncated (ends in the
middle of what it promised), /wrong (a line that is no metric), /status (500)."""

import http.server
import sys
import time

GOOD = b"# HELP web_requests_total Requests.\n# TYPE web_requests_total counter\nweb_requests_total{code=\"200\"} 7\n"


class Pod(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind = self.path.strip("/")
        status, type_, body = 200, "text/plain; version=0.0.4", GOOD
        if kind == "html":
            type_, body = "text/html", b"<html><body>Sign in</body></html>\n"
        elif kind == "slow":
            time.sleep(30)
        elif kind == "wrong":
            body = GOOD + b"this is no metric\n"
        elif kind == "status":
            status = 500
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body[:20] if kind == "truncated" else body)
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Pod).serve_forever()
