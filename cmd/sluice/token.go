package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"sluice/handlers"
)

type tokenCmd struct {
	Org        string        `default:"1" help:"Org of the user; * makes a service token, which names the org it acts for."`
	User       string        `required:"" help:"User id (the claim sub)."`
	Role       string        `help:"ADMIN sees every property of the org; any other role only --properties."`
	Properties []string      `placeholder:"ID,…" help:"Properties that the user sees, beside what is org-wide."`
	Services   []string      `placeholder:"NAME,…" help:"Services that the token is good for; all if not given."`
	Scope      string        `placeholder:"SCOPES" help:"Space-separated: publish, admin."`
	Name       string        `help:"Name that others see."`
	TTL        time.Duration `name:"ttl" default:"1h" help:"How long the token holds."`
	secretFlags
}

// Help shows examples.
func (tokenCmd) Help() string {
	return `The token alone is printed, for use in scripts. It is signed with the secret of the server on this machine
(<data>/jwt.secret), or with --jwt-secret.

Examples:
  sluice token --user 7 --role ADMIN                                  sees all of org 1
  sluice token --user app --scope publish --ttl 24h                   an application that publishes
  sluice token --org 2 --user 9 --role MANAGER --properties 4,5       sees two properties of org 2
  curl -N -H "Authorization: Bearer $(sluice token --user 7 --role ADMIN)" http://127.0.0.1:8080/v2/realtime/stream`
}

// longestTTL keeps a slip of the unit from making a token for ever.
const longestTTL = 10 * 365 * 24 * time.Hour

// Run prints the token.
func (c *tokenCmd) Run() error { return c.print(os.Stdout) }

func (c *tokenCmd) print(to io.Writer) error {
	if c.TTL <= 0 || c.TTL > longestTTL {
		return fmt.Errorf("--ttl is %s; it must be more than 0s and at most %s", c.TTL, longestTTL)
	}
	if c.Org == "" || c.User == "" {
		return errors.New("--org and --user must not be empty")
	}
	secret, err := c.secret()
	if err != nil {
		return err
	}
	text, err := handlers.MintToken(secret, handlers.Claims{
		Org: c.Org, User: c.User, Role: c.Role, Properties: c.Properties, Services: c.Services, Scope: c.Scope,
		DisplayName: c.Name, Issuer: c.JWTIssuer, Audience: c.JWTAudience, Expires: time.Now().Add(c.TTL),
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, text)
	return err
}
