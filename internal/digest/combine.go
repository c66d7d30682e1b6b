package digest

// Merge puts in all that other holds.
func (s *Set) Merge(other *Set) {
	for i := range s {
		s[i].Merge(other[i])
	}
}

// Between returns the change that makes from equal to, and how many branches it touches.
func Between(from, to *Set) (d *Delta, branches int) {
	d = &Delta{}
	differ := from.Diff(to)
	for _, i := range differ {
		sum := d.at(i)
		*sum = to[i]
		sum.xor(&from[i].Xor)
		sum.Count -= from[i].Count
	}
	return d, len(differ)
}
