package streams

import (
	"strconv"

	"sluice/store"
)

// group is the subscribers of a tail that are given the same bytes: equal filters, one encoder. An event that only some of
// them may see takes these out for as long (tail.apart). The tail's lock guards it.
type group struct {
	key     string
	filter  Filter
	encoder Encoder     // nil: polls
	answers PollEncoder // of polls
	live    crowd
	members int // live and others

	pending []*entry // of the round under way
}

// groups finds those that an event concerns without walking over the others.
type groups struct {
	byKey      map[string]*group
	byProperty map[string][]*group // those with a list of properties, under each of them
	unbound    []*group            // those with all properties
	bound      []*group            // those with a list: an event of the whole org concerns them, too
}

// join gives the group of a subscription, made where it is not there.
func (g *groups) join(sub *Subscription) *group {
	filter, key := sub.Filter, sub.Filter.key()
	if sub.Poll == nil {
		key = strconv.Itoa(sub.Encoder.Index()) + "/" + key
	} else {
		key = "poll " + sub.Poll.Encoder.Name() + "/" + key
	}
	one := g.byKey[key]
	if one == nil {
		one = &group{key: key, filter: filter, encoder: sub.Encoder}
		if sub.Poll != nil {
			one.answers = sub.Poll.Encoder
		}
		if g.byKey == nil {
			g.byKey, g.byProperty = map[string]*group{}, map[string][]*group{}
		}
		g.byKey[key] = one
		if filter.AllProperties {
			g.unbound = append(g.unbound, one)
		} else {
			g.bound = append(g.bound, one)
			for _, property := range filter.Properties {
				g.byProperty[property] = append(g.byProperty[property], one)
			}
		}
	}
	one.members++
	return one
}

// leave takes one member away; an empty group goes.
func (g *groups) leave(one *group) {
	one.members--
	if one.members > 0 {
		return
	}
	delete(g.byKey, one.key)
	if one.filter.AllProperties {
		g.unbound = without(g.unbound, one)
		return
	}
	g.bound = without(g.bound, one)
	for _, property := range one.filter.Properties {
		if rest := without(g.byProperty[property], one); len(rest) > 0 {
			g.byProperty[property] = rest
		} else {
			delete(g.byProperty, property)
		}
	}
}

func without(list []*group, one *group) []*group {
	for i := range list {
		if list[i] == one {
			last := len(list) - 1
			list[i], list[last] = list[last], nil
			return list[:last]
		}
	}
	return list
}

// concerned calls visit for every group that may admit the event by its property, to all its members alike.
func (g *groups) concerned(event *store.Event, visit func(*group)) {
	for _, one := range g.unbound {
		visit(one)
	}
	list := g.bound
	if event.PropertyID != "" {
		list = g.byProperty[event.PropertyID]
	}
	for _, one := range list {
		if event.Audience == "" || one.filter.sharesPrivate() {
			visit(one)
		}
	}
}
