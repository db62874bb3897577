package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help says how to load the scripts.
func (completionCmd) Help() string {
	return `Examples:
  source <(sluice completion bash)                                      in ~/.bashrc
  source <(sluice completion zsh)                                       in ~/.zshrc, after compinit
  sluice completion fish > ~/.config/fish/completions/sluice.fish`
}

// Run prints the script.
func (c *completionCmd) Run(command *kong.Context) error {
	places := placesOf(command.Model.Node, "sluice")
	switch c.Shell {
	case "zsh":
		return completeZsh(os.Stdout, places)
	case "fish":
		return completeFish(os.Stdout, places)
	}
	return completeBash(os.Stdout, places)
}

// place is one command of the command line and what may follow it.
type place struct {
	path  string // "sluice migrate up"
	words []word // subcommands, and what an argument may be
	flags []word
}

// word is something that can be completed.
type word struct {
	text   string
	help   string
	takes  bool     // a flag that is followed by a value
	values []string // the only values there are
	files  bool     // the value is a file or directory
}

// placesOf walks the commands that are shown to users.
func placesOf(node *kong.Node, path string) []place {
	here := place{path: path}
	var below []place
	for _, child := range node.Children {
		if child.Hidden {
			continue
		}
		here.words = append(here.words, word{text: child.Name, help: sentence(child.Help)})
		below = append(below, placesOf(child, path+" "+child.Name)...)
	}
	for _, argument := range node.Positional {
		for _, value := range choices(argument) {
			here.words = append(here.words, word{text: value, help: sentence(argument.Help)})
		}
	}
	for _, group := range node.AllFlags(true) {
		for _, flag := range group {
			here.flags = append(here.flags, wordsOf(flag)...)
		}
	}
	return append([]place{here}, below...)
}

// wordsOf gives a flag in its forms.
func wordsOf(flag *kong.Flag) []word {
	one := word{
		text: "--" + flag.Name, help: sentence(flag.Help), takes: !flag.IsBool() && !flag.IsCounter(),
		values: choices(flag.Value),
	}
	switch flag.Tag.Type {
	case "path", "existingfile", "existingdir", "filecontent":
		one.files = true
	}
	// Directories are plain texts to the parser: they need not exist yet.
	one.files = one.files || flag.PlaceHolder == "DIR" || flag.PlaceHolder == "FILE"
	words := []word{one}
	if flag.Short != 0 {
		short := one
		short.text = "-" + string(flag.Short)
		words = append(words, short)
	}
	if flag.Tag.Negatable != "" {
		words = append(words, word{text: "--no-" + flag.Name, help: "Not: " + sentence(flag.Help)})
	}
	return words
}

// choices are the values that a flag or an argument is limited to.
func choices(value *kong.Value) []string {
	var some []string
	for one := range strings.SplitSeq(value.Enum, ",") {
		if one = strings.TrimSpace(one); one != "" {
			some = append(some, one)
		}
	}
	return some
}

// sentence is the first one of a help text, without its full stop.
func sentence(help string) string {
	first, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(first, ".")
}

// script writes shell code. The error of the first write that failed is kept.
type script struct {
	to  io.Writer
	err error
}

func (s *script) line(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.to, format+"\n", args...)
	}
}

// quoted is a text that bash and zsh take as it is.
func quoted(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// patterns joins texts as the alternatives of a case, or gives one that never fits.
func patterns(texts []string) string {
	if len(texts) == 0 {
		return "''"
	}
	for i, text := range texts {
		texts[i] = quoted(text)
	}
	return strings.Join(texts, "|")
}

// known gives, as "path word", every command but the root, and every flag that keep admits.
func known(places []place, keep func(word) bool) (commands, flags []string) {
	for _, at := range places {
		if strings.Contains(at.path, " ") {
			commands = append(commands, at.path)
		}
		for _, flag := range at.flags {
			if keep(flag) {
				flags = append(flags, at.path+" "+flag.text)
			}
		}
	}
	return commands, flags
}

func takesValue(flag word) bool { return flag.takes }
func takesFile(flag word) bool  { return flag.takes && flag.files }

func texts(words []word) string {
	all := make([]string, len(words))
	for i, one := range words {
		all[i] = one.text
	}
	return strings.Join(all, " ")
}

// completeBash writes a function for `complete -F` that needs nothing but bash 3. It follows the words from the left
// to learn which command the cursor is in, and stepping over the values of flags.
func completeBash(to io.Writer, places []place) error {
	s := &script{to: to}
	commands, values := known(places, takesValue)
	_, files := known(places, takesFile)
	s.line(`# bash completion for sluice. Load it with: source <(sluice completion bash)`)
	s.line(`_sluice() {`)
	s.line(`    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" at=sluice i=1 words=`)
	s.line(`    # --flag=value arrives as three words.`)
	s.line(`    if [[ $cur == "=" ]]; then cur=`)
	s.line(`    elif [[ $prev == "=" ]] && ((COMP_CWORD > 1)); then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi`)
	s.line(`    while ((i < COMP_CWORD)); do`)
	s.line(`        case "$at ${COMP_WORDS[i]}" in`)
	s.line(`            %s) at="$at ${COMP_WORDS[i]}" ;;`, patterns(commands))
	s.line(`            %s) [[ ${COMP_WORDS[i+1]} == "=" ]] && ((i++)); ((i++)) ;;`, patterns(values))
	s.line(`        esac`)
	s.line(`        ((i++))`)
	s.line(`    done`)
	s.line(`    COMPREPLY=()`)
	s.line(`    case "$at $prev" in`)
	for _, at := range places {
		for _, flag := range at.flags {
			if flag.takes && len(flag.values) > 0 {
				s.line(`        %s) COMPREPLY=($(compgen -W %s -- "$cur")); return ;;`,
					quoted(at.path+" "+flag.text), quoted(strings.Join(flag.values, " ")))
			}
		}
	}
	s.line(`        %s) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;`, patterns(files))
	_, values = known(places, takesValue)
	s.line(`        %s) return ;;`, patterns(values))
	s.line(`    esac`)
	s.line(`    case "$at" in`)
	for _, at := range places {
		s.line(`        %s)`, quoted(at.path))
		s.line(`            words=%s`, quoted(texts(at.words)))
		s.line(`            [[ $cur == -* ]] && words=%s ;;`, quoted(texts(at.flags)))
	}
	s.line(`    esac`)
	s.line(`    COMPREPLY=($(compgen -W "$words" -- "$cur"))`)
	s.line(`}`)
	s.line(`complete -F _sluice sluice`)
	return s.err
}

// completeZsh does the same in zsh, which shows the help beside each word.
func completeZsh(to io.Writer, places []place) error {
	s := &script{to: to}
	commands, values := known(places, takesValue)
	_, files := known(places, takesFile)
	s.line(`#compdef sluice`)
	s.line(`# zsh completion for sluice. Load it with: source <(sluice completion zsh)`)
	s.line(`_sluice() {`)
	s.line(`    local at=sluice prev="${words[CURRENT-1]}" i=2`)
	s.line(`    local -a follow options`)
	s.line(`    while ((i < CURRENT)); do`)
	s.line(`        case "$at ${words[i]}" in`)
	s.line(`            %s) at="$at ${words[i]}" ;;`, patterns(commands))
	s.line(`            %s) ((i++)) ;;`, patterns(values))
	s.line(`        esac`)
	s.line(`        ((i++))`)
	s.line(`    done`)
	s.line(`    # --flag=value is one word here: what is before the sign is put aside, and the value completed.`)
	s.line(`    if [[ ${words[CURRENT]} == --*=* ]]; then prev="${words[CURRENT]%%%%=*}"; compset -P '*='; fi`)
	s.line(`    case "$at $prev" in`)
	for _, at := range places {
		for _, flag := range at.flags {
			if flag.takes && len(flag.values) > 0 {
				s.line(`        %s) compadd -- %s; return ;;`, quoted(at.path+" "+flag.text), strings.Join(flag.values, " "))
			}
		}
	}
	s.line(`        %s) _files; return ;;`, patterns(files))
	_, values = known(places, takesValue)
	s.line(`        %s) return 1 ;;`, patterns(values))
	s.line(`    esac`)
	s.line(`    case "$at" in`)
	for _, at := range places {
		s.line(`        %s)`, quoted(at.path))
		s.line(`            follow=(%s)`, described(at.words))
		s.line(`            options=(%s) ;;`, described(at.flags))
	}
	s.line(`    esac`)
	s.line(`    if [[ ${words[CURRENT]} == -* ]]; then _describe option options; else _describe command follow; fi`)
	s.line(`}`)
	s.line(`(( $+functions[compdef] )) && compdef _sluice sluice`)
	return s.err
}

// described gives words as zsh's _describe wants them: word:help, with the colons of the word itself escaped.
func described(words []word) string {
	all := make([]string, len(words))
	for i, one := range words {
		all[i] = quoted(strings.ReplaceAll(one.text, ":", `\:`) + ":" + one.help)
	}
	return strings.Join(all, " ")
}

// completeFish writes one `complete` a word; each asks a function whether the cursor is in its command.
func completeFish(to io.Writer, places []place) error {
	s := &script{to: to}
	commands, values := known(places, takesValue)
	fishAll(commands)
	fishAll(values)
	s.line(`# fish completion for sluice: sluice completion fish > ~/.config/fish/completions/sluice.fish`)
	s.line(`function __sluice_at`)
	s.line(`    set -l at sluice`)
	s.line(`    set -l skip 0`)
	s.line(`    for word in (commandline -opc)[2..-1]`)
	s.line(`        if test $skip = 1`)
	s.line(`            set skip 0`)
	s.line(`            continue`)
	s.line(`        end`)
	s.line(`        switch "$at $word"`)
	s.line(`            case %s`, strings.Join(commands, " "))
	s.line(`                set at "$at $word"`)
	s.line(`            case %s`, strings.Join(values, " "))
	s.line(`                set skip 1`)
	s.line(`        end`)
	s.line(`    end`)
	s.line(`    test "$at" = "$argv"`)
	s.line(`end`)
	s.line(`complete -c sluice -f`)
	for _, at := range places {
		condition := fishQuoted("__sluice_at " + at.path)
		for _, one := range at.words {
			s.line(`complete -c sluice -n %s -a %s -d %s`, condition, fishQuoted(one.text), fishQuoted(one.help))
		}
		for _, flag := range at.flags {
			form := "-l " + strings.TrimPrefix(flag.text, "--")
			if !strings.HasPrefix(flag.text, "--") {
				form = "-s " + strings.TrimPrefix(flag.text, "-")
			}
			switch {
			case len(flag.values) > 0:
				form += " -x -a " + fishQuoted(strings.Join(flag.values, " "))
			case flag.takes && flag.files:
				form += " -r -F"
			case flag.takes:
				form += " -x"
			}
			s.line(`complete -c sluice -n %s %s -d %s`, condition, form, fishQuoted(flag.help))
		}
	}
	return s.err
}

func fishAll(texts []string) {
	for i, text := range texts {
		texts[i] = fishQuoted(text)
	}
}

// fishQuoted is a text that fish takes as it is.
func fishQuoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}
