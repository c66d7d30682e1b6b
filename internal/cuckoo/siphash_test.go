package cuckoo

// siphash_test.go compares the hash with values of OpenSSL:
//
//	printf ... | openssl mac -macopt hexkey:KEY -macopt size:8 SIPHASH
//
// Those of the first key are in the paper's reference implementation too.

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

func TestHashIsSipHash(t *testing.T) {
	counting := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return string(b)
	}
	const paper, other = "000102030405060708090a0b0c0d0e0f", "ffeeddccbbaa99887766554433221100"
	for _, test := range []struct{ key, text, want string }{
		{paper, counting(0), "310e0edd47db6f72"},
		{paper, counting(1), "fd67dc93c539f874"},
		{paper, counting(7), "37d1018bf50002ab"},
		{paper, counting(8), "6224939a79f5f593"},
		{paper, counting(9), "b0e4a90bdf82009e"},
		{paper, counting(15), "e545be4961ca29a1"},
		{paper, counting(16), "db9bc2577fcc2a3f"},
		{paper, counting(23), "c8ce5ccd8c030ca8"},
		{paper, counting(63), "724506eb4c328a95"},
		{other, "ключ/日本", "c1d59f5d668d67f5"},
		{other, strings.Repeat("x", 512), "bdd1175ffbc7bdcc"},
	} {
		key, err := hex.DecodeString(test.key)
		if err != nil {
			t.Fatal(err)
		}
		sum := binary.LittleEndian.AppendUint64(nil, newSipKey(Seed(key)).hash(test.text))
		if got := hex.EncodeToString(sum); got != test.want {
			t.Errorf("%d bytes with key %s: %s, want %s", len(test.text), test.key, got, test.want)
		}
	}
}
