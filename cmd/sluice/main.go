// Command sluice carries events from Postgres to browsers. See `sluice --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"sluice/cmd/sluice/bench"
)

// commands is the whole command line; every command is a struct in the file of its name.
type commands struct {
	Serve      serveCmd      `cmd:"" help:"Serve events: publish over HTTP, read over Server-Sent Events."`
	Token      tokenCmd      `cmd:"" help:"Print a JWT for a user or an application."`
	Publish    publishCmd    `cmd:"" help:"Publish one event, or JSON lines from standard input."`
	Tail       tailCmd       `cmd:"" help:"Print events as they come, for ever; reconnects and resumes."`
	Migrate    migrateCmd    `cmd:"" help:"Bring the schema up to date, or show where it stands."`
	Epoch      epochCmd      `cmd:"" help:"Begin a new incarnation of the log."`
	Bench      bench.Command `cmd:"" help:"Measure a running server beside a floor."`
	Doctor     doctorCmd     `cmd:"" help:"Examine a deployed server and what stands before it."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`
}

// Help shows where to begin.
func (commands) Help() string {
	return `Examples:
  sluice serve --dev                                            a page, a private Postgres in ./data
  sluice tail --pretty                                          what is published there, as it comes
  sluice publish guest guest_created '{"name": "Ada"}'          one event`
}

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes one command line and returns the exit status: 0, 1 for a failure, 2 for a wrong command line.
func run(args []string) int {
	var line commands
	parser, err := kong.New(&line,
		kong.Name("sluice"),
		kong.Description("Realtime events for web applications on Postgres."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		panic(err) // the struct above is wrong
	}
	command, err := parser.Parse(args)
	if err != nil {
		parser.Errorf("%s", err)
		var wrong *kong.ParseError
		if errors.As(err, &wrong) {
			fmt.Fprintf(os.Stderr, "Run \"%s --help\" for more.\n", commandPath(wrong.Context))
		}
		return 2
	}
	// The first signal asks for an orderly end; a second one, unhandled again, ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
		return 1
	}
	return 0
}

// commandPath is the command line as far as it was understood.
func commandPath(ctx *kong.Context) string {
	if selected := ctx.Selected(); selected != nil {
		return "sluice " + selected.Path()
	}
	return "sluice"
}
