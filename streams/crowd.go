package streams

// crowd is subscribers in no order. A subscriber is in one crowd at most and knows its place there, so that leaving costs
// the same however many there are. The tail's lock guards it.
type crowd []*Subscriber

func (c *crowd) add(s *Subscriber) {
	s.crowd, s.place = c, len(*c)
	*c = append(*c, s)
}

// take empties the crowd; those that were in it are in none.
func (c *crowd) take() []*Subscriber {
	list := *c
	*c = nil
	for _, s := range list {
		s.crowd = nil
	}
	return list
}

// leave takes the subscriber out of the crowd that it is in. The last one there takes its place.
func (s *Subscriber) leave() {
	if s.crowd == nil {
		return
	}
	list := *s.crowd
	last := len(list) - 1
	list[s.place] = list[last]
	list[s.place].place = s.place
	list[last] = nil
	*s.crowd = list[:last]
	s.crowd = nil
}
