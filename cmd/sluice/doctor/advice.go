package doctor

import (
	"errors"
	"fmt"
	"time"
)

var errNoAddress = errors.New("the URL is not a server's address such as https://events.example.com")

// What to set in which proxy. deploy/nginx.conf and deploy/haproxy.cfg have all of it.
var (
	unbuffered = []string{
		"nginx: proxy_buffering off; and no proxy_ignore_headers X-Accel-Buffering",
		"HAProxy: no http-response wait-for-body",
	}
	uncompressed = []string{"nginx: gzip off;", "HAProxy: no filter compression for this backend"}
	upgraded     = []string{
		`nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`,
		"HAProxy passes WebSockets on as it is: look for http-request del-header",
	}
	atOnce      = []string{"HAProxy: option http-no-delay", "nginx: tcp_nodelay on;"}
	sameHost    = []string{"nginx: proxy_set_header Host $http_host;", "or sluice serve --allowed-origins with that origin"}
	overHTTP2   = []string{"nginx: listen 443 ssl http2;", "HAProxy: bind :443 ssl crt FILE alpn h2,http/1.1"}
	passedOn    = []string{"nginx: location / { proxy_pass http://SLUICE; }", "HAProxy: default_backend and server lines that name Sluice"}
	oneCORS     = []string{"nginx: no add_header Access-Control-Allow-Origin; Sluice answers for itself", "HAProxy: no http-response set-header or add-header of it"}
	credentials = []string{
		"nginx: no proxy_hide_header and no add_header of Access-Control-Allow-Credentials; Sluice answers for itself",
		"HAProxy: no http-response del-header or add-header of it",
	}
)

// patient says how a proxy bears silence: for half as long again as the longest that there is.
func patient(longest time.Duration) []string {
	bear := max(90*time.Second, (longest * 3 / 2).Round(time.Second))
	return []string{
		fmt.Sprintf("nginx: proxy_read_timeout %.0fs;", bear.Seconds()),
		fmt.Sprintf("HAProxy: timeout client %.0[1]fs, timeout server %.0[1]fs and timeout tunnel %.0[1]fs", bear.Seconds()),
	}
}
