package main

import "sluice/streams"

// chat opens what users do in rooms, and what knows who is there and who types.
func (i *instance) chat(notifier *streams.Notifier) {
	presence := streams.NewPresence(i.events, i.hub, i.name, i.log)
	typing := streams.NewTyping(i.events, i.hub, i.log)
	notifier.Present, notifier.Missed, notifier.Typed = presence.Present, presence.Missed, typing.Typed
	i.rooms = streams.NewRooms(i.events, i.appender, streams.NewRoomSignals(i.events, presence, typing), i.log)
	i.background(i.rooms.Run)
	i.background(typing.Run)
	i.background(presence.Run) // ends before sharing does: while the instance lives, it takes back who is here
}
