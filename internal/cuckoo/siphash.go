package cuckoo

// siphash.go is SipHash-2-4 of a string, after Aumasson and Bernstein, "SipHash: a fast short-input
// PRF" (2012). It is our own because it is shorter than an adapter to a module would be, and takes
// strings; the tests compare it with OpenSSL's.

import (
	"encoding/binary"
	"math/bits"
)

// sipKey is the state before the first block.
type sipKey struct{ v0, v1, v2, v3 uint64 }

func newSipKey(seed Seed) sipKey {
	k0, k1 := binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])
	return sipKey{
		k0 ^ 0x736f6d6570736575,
		k1 ^ 0x646f72616e646f6d,
		k0 ^ 0x6c7967656e657261,
		k1 ^ 0x7465646279746573,
	}
}

func (k sipKey) hash(s string) uint64 {
	v0, v1, v2, v3 := k.v0, k.v1, k.v2, k.v3
	last := uint64(len(s)) << 56
	for ; len(s) >= 8; s = s[8:] {
		m := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		v3 ^= m
		for range 2 {
			v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		}
		v0 ^= m
	}
	for i := range len(s) {
		last |= uint64(s[i]) << (8 * i)
	}
	v3 ^= last
	for range 2 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

// sipRound is small enough to be inlined as long as it takes and returns plain words.
func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v0 = bits.RotateLeft64(v0, 32) + v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	return v0, v1, bits.RotateLeft64(v2, 32), v3
}
