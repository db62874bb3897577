package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// cors asks as the browser does for a page of another origin: for leave first, and then for the thing itself.
func (x *exam) cors(ctx context.Context) {
	const check = "cors"
	if x.Origin == "" || x.Origin == x.own() {
		x.found(check, OK, "not needed by pages of "+x.own()+"; --origin asks for another's")
		return
	}
	before, err := x.request(ctx, http.MethodOptions, "/v2/realtime/stream", nil, "")
	if err == nil {
		before.Header.Set("Access-Control-Request-Method", http.MethodGet)
		before.Header.Set("Access-Control-Request-Headers", "authorization")
		before.Header.Set("Origin", x.Origin)
	}
	request, err2 := x.request(ctx, http.MethodGet, "/v2/realtime/poll", url.Values{"wait": {"0"}}, x.Token)
	if err != nil || err2 != nil {
		x.found(check, Fail, fmt.Sprint(err, err2))
		return
	}
	request.Header.Set("Origin", x.Origin)
	for _, one := range []*http.Request{before, request} {
		response, _, err := x.fetch(one, x.Wait, http.StatusOK, nil)
		if response == nil {
			x.found(check, Fail, one.Method+" fails: "+err.Error(), passedOn...)
			return
		}
		allowed := response.Header.Values("Access-Control-Allow-Origin")
		switch {
		case len(allowed) > 1 || len(allowed) == 1 && allowed[0] != x.Origin:
			x.found(check, Fail, fmt.Sprintf("browsers refuse what %s is answered with: Access-Control-Allow-Origin: %s", one.Method, strings.Join(allowed, " and ")), oneCORS...)
			return
		case status(err) >= http.StatusBadRequest:
			x.found(check, Fail, fmt.Sprintf("%s is answered with %v", one.Method, err), "the proxy must pass "+one.Method+" on")
			return
		case len(allowed) == 0:
			x.found(check, Fail, "pages of "+x.Origin+" may not read", "sluice serve --allowed-origins="+x.Origin)
			return
		}
		if given := strings.Join(response.Header.Values("Access-Control-Allow-Credentials"), " and "); given != "true" {
			x.found(check, Fail, fmt.Sprintf("browsers refuse what %s with cookies is answered with: Access-Control-Allow-Credentials: %q, not true", one.Method, given), credentials...)
			return
		}
		if one == before && !strings.Contains(strings.ToLower(response.Header.Get("Access-Control-Allow-Headers")), "authorization") {
			x.found(check, Fail, "pages may not send Authorization: the leave that browsers ask for does not name it", oneCORS...)
			return
		}
	}
	x.found(check, OK, "pages of "+x.Origin+" may read")
}
