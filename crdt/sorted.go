package crdt

// sorted.go works on sorted slices without equal elements, which is how all states are kept: most
// input is sorted already, equal states have equal slices, and two of them merge in one walk.

import "slices"

// sortUnique sorts list, and reports whether no two elements are equal.
func sortUnique[T any](list []T, compare func(a, b T) int) bool {
	rising := func() bool {
		for i := 1; i < len(list); i++ {
			if compare(list[i-1], list[i]) >= 0 {
				return false
			}
		}
		return true
	}
	if rising() {
		return true
	}
	slices.SortFunc(list, compare)
	return rising()
}

// union merges two lists into a new one. Of two that compare as equal, it keeps what both returns.
func union[T any](a, b []T, compare func(a, b T) int, both func(a, b T) T) []T {
	list := make([]T, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch order := compare(a[0], b[0]); {
		case order < 0:
			list = append(list, a[0])
			a = a[1:]
		case order > 0:
			list = append(list, b[0])
			b = b[1:]
		default:
			list = append(list, both(a[0], b[0]))
			a, b = a[1:], b[1:]
		}
	}
	list = append(list, a...)
	return append(list, b...)
}
