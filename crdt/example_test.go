package crdt_test

import (
	"fmt"

	"github.com/syncengine-go/syncengine/crdt"
)

// Two shops count visitors, each on its own.
func Example() {
	north, _ := crdt.Apply(crdt.KindGCounter, nil, []byte(`5`), crdt.Op{Node: "north"})
	south, _ := crdt.Apply(crdt.KindGCounter, nil, []byte(`3`), crdt.Op{Node: "south"})
	south, _ = crdt.Apply(crdt.KindGCounter, south, []byte(`1`), crdt.Op{Node: "south"})

	all, err := crdt.Compact(crdt.KindGCounter, north, south, north)
	if err != nil {
		fmt.Println(err)
		return
	}
	visitors, _ := crdt.Value(crdt.KindGCounter, all)
	fmt.Println(string(visitors))
	fmt.Println(string(all))
	// Output:
	// 9
	// {"counters":{"north":5,"south":4},"vclock":{"clocks":{"north":[1,0],"south":[2,0]}}}
}

// Two people change one shopping list. The milk is removed by one, while the other, who doesn't
// know that yet, puts it there once more: it stays.
func ExampleORSet() {
	var anna crdt.ORSet
	_ = anna.Insert("anna", "milk")
	_ = anna.Insert("anna", "bread")

	ben := anna.Clone()
	ben.Remove("bread")
	ben.Remove("milk")
	_ = anna.Insert("anna", "milk")

	anna.Merge(ben)
	ben.Merge(&anna)
	fmt.Println(anna.Elements(), ben.Elements())
	// Output:
	// [milk] [milk]
}

func ExamplePNCounter() {
	var stock crdt.PNCounter
	_ = stock.Increment("warehouse", 10)

	web := stock.Clone()
	_ = web.Decrement("web", 2)
	_ = stock.Decrement("warehouse", 1)

	stock.Merge(web)
	left, _ := stock.Value()
	fmt.Println(left)
	// Output: 7
}
