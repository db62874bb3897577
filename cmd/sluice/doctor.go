package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"sluice/cmd/sluice/doctor"
)

type doctorCmd struct {
	URL string `arg:"" optional:"" name:"url" env:"SLUICE_URL" default:"http://127.0.0.1:8080" help:"Server to examine, by the address that clients have."`
	callerFlags
	Origin string        `placeholder:"ORIGIN" help:"Origin of the pages that read from there, such as https://app.example.com; none: the server's own."`
	Idle   time.Duration `default:"65s" help:"How long to listen to silence; at least twice the server's heartbeat."`
	Wait   time.Duration `default:"10s" help:"Longest wait for an answer and for a stream's first frame."`
	JSON   bool          `name:"json" help:"Print what is found as JSON."`
}

// Help shows examples.
func (doctorCmd) Help() string {
	return `Looks from outside for what stands between clients and Sluice: buffering, idle time-outs, the version of HTTP,
WebSockets, clocks, CORS and tickets, and names the directive of nginx or HAProxy to set. It publishes nothing. The exit
status is 1 where something must change.

Examples:
  sluice doctor https://events.example.com --token "$TOKEN"
  sluice doctor https://events.example.com --origin https://app.example.com
  sluice doctor --idle 90s --json | jq '.findings[] | select(.level != "ok")'`
}

// Run examines the server.
func (c *doctorCmd) Run(ctx context.Context) error {
	for name, value := range map[string]time.Duration{"idle": c.Idle, "wait": c.Wait} {
		if value < time.Second || value > time.Hour {
			return fmt.Errorf("--%s %v: from 1s to 1h", name, value)
		}
	}
	bearer, err := c.bearer("sluice-doctor", "")
	if err != nil {
		return err
	}
	visit := doctor.Visit{
		URL: c.URL, Token: bearer, Origin: strings.TrimSuffix(c.Origin, "/"), Idle: c.Idle, Wait: c.Wait,
		Note: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "sluice: "+format+"\n", args...) },
	}
	if !c.minted() {
		visit.Org = c.Org
	}
	report, err := visit.Examine(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", c.URL, err)
	}
	if c.JSON {
		to := json.NewEncoder(os.Stdout)
		to.SetIndent("", "  ")
		to.SetEscapeHTML(false)
		err = to.Encode(report)
	} else {
		err = report.Print(os.Stdout)
	}
	if wrong := report.Count(doctor.Fail); err == nil && wrong > 0 {
		err = fmt.Errorf("%s: to be changed: %d of %d", c.URL, wrong, len(report.Findings))
	}
	return err
}
