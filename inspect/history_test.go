package inspect

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTheRingKeepsTheNewestInOrder(t *testing.T) {
	var h history
	began := time.Now()
	for i := range mostSamples + 7 {
		h.add(sample{at: began.Add(time.Duration(i) * time.Second), pending: i})
	}
	all := h.all()
	if len(all) != mostSamples || all[0].pending != 7 || all[mostSamples-1].pending != mostSamples+6 {
		t.Errorf("%d samples, %d to %d", len(all), all[0].pending, all[len(all)-1].pending)
	}
}

func TestChartsShowRatesAndStayInTheirBox(t *testing.T) {
	began := time.Now()
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	c := charts([]sample{{at: at(0)}, {at: at(2), hits: 30, reads: 40, landed: 200, pending: 5}, {at: at(4), hits: 29, reads: 40, landed: 200}})
	if c[0].Now != "0" || c[0].Most != "20" || c[1].Most != "100" || c[2].Most != "5" || c[3].Most != "75.0 %" {
		t.Errorf("%+v", c)
	}
	for _, c := range c {
		for _, p := range strings.Fields(c.Line) {
			var x, y float64
			if _, err := fmt.Sscanf(p, "%f,%f", &x, &y); err != nil || x < 0 || x > chartWidth || y < 0 || y > chartHeight {
				t.Errorf("%s: %s, %v", c.Name, p, err)
			}
		}
	}
	for _, c := range charts(nil) {
		if c.Line != "" || c.Now != "–" {
			t.Errorf("of nothing: %+v", c)
		}
	}
	if c := charts([]sample{{at: at(0)}, {at: at(0)}})[0]; c.Line != "" {
		t.Errorf("of one moment: %+v", c)
	}
}

func TestWordsForPeople(t *testing.T) {
	for got, want := range map[string]string{
		num(1234567): "1\u202f234\u202f567", num(-123): "-123", num(-1234): "-1\u202f234", num(0): "0",
		size(1023): "1023 B", size(1 << 20): "1.0 MiB", size(5 << 50): "5120.0 TiB",
		span(1500 * time.Microsecond): "1.5 ms", span(90 * time.Second): "1 min 30 s", span(3 * time.Hour): "3 h 00 min",
		ratio(0, 0): "–", ratio(3, 1): "75.0 %",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
