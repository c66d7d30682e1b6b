package jsonvalid

// nesting remembers of every open array and object which of the two it is: one bit a level, the
// innermost lowest. The last up to 64 levels are in top, full words of outer levels in low and then
// in high. Only high is on the heap, and only a text deeper than 512 has one.
type nesting struct {
	depth int
	top   uint64
	low   [7]uint64
	high  []uint64
}

// push takes '{' or '['.
func (n *nesting) push(bracket byte) {
	if n.depth > 0 && n.depth%64 == 0 {
		n.spill()
	}
	n.top = n.top<<1 | uint64(bracket>>5&1) // '{' is 0x7b, '[' is 0x5b
	n.depth++
}

func (n *nesting) pop() {
	n.top >>= 1
	n.depth--
	if n.depth > 0 && n.depth%64 == 0 {
		n.unspill()
	}
}

func (n *nesting) inObject() bool { return n.top&1 != 0 }

// closer returns the bracket that closes the innermost: ']' is 0x5d, '}' is 0x7d.
func (n *nesting) closer() byte { return ']' | byte(n.top&1)<<5 }

func (n *nesting) spill() {
	word := n.depth/64 - 1
	if word < len(n.low) {
		n.low[word] = n.top
		return
	}
	n.high = append(n.high, n.top)
}

func (n *nesting) unspill() {
	word := n.depth/64 - 1
	if word < len(n.low) {
		n.top = n.low[word]
		return
	}
	last := len(n.high) - 1
	n.top = n.high[last]
	n.high = n.high[:last]
}
