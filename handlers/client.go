package handlers

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// client is the address that a request comes from. Proxies that are trusted say in X-Forwarded-For whom they ask for: each
// appends its own client, so the list is read from its end, for as long as who has written an entry is trusted.
func (s *Server) client(r *http.Request) string {
	at, ok := address(r.RemoteAddr)
	if !ok {
		return r.RemoteAddr
	}
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, one := range slices.Backward(list) {
		if !s.trusts(at) {
			break
		}
		next, ok := address(strings.TrimSpace(one))
		if !ok {
			break
		}
		at = next
	}
	return at.String()
}

// trusts says whether an address is a trusted proxy's.
func (s *Server) trusts(at netip.Addr) bool {
	return slices.ContainsFunc(s.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(at) })
}

// address reads an address, with or without a port.
func address(text string) (netip.Addr, bool) {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return both.Addr().Unmap(), true
	}
	at, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return at.Unmap(), err == nil
}

// ParseProxies reads addresses and ranges such as 10.0.0.0/8.
func ParseProxies(list []string) ([]netip.Prefix, error) {
	var trusted []netip.Prefix
	for _, one := range list {
		prefix, err := netip.ParsePrefix(one)
		if err != nil {
			at, err2 := netip.ParseAddr(one)
			if err2 != nil {
				return nil, err
			}
			prefix = netip.PrefixFrom(at.Unmap(), at.Unmap().BitLen())
		}
		trusted = append(trusted, prefix.Masked())
	}
	return trusted, nil
}
