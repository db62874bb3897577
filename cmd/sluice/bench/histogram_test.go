package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestHistogram compares quantiles with those of the sorted values: never below, and above by 1/32 at most.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var values []time.Duration
	var whole, left, right histogram
	for i := range 5000 {
		d := time.Duration(random.Int64N(1 << (1 + i%40)))
		values = append(values, d)
		whole.add(d)
		[]*histogram{&left, &right}[i%2].add(d)
	}
	left.merge(&right)
	if left != whole {
		t.Fatal("two halves are not the whole")
	}
	slices.Sort(values)
	for _, q := range []float64{.001, .01, .25, .5, .9, .99, .999} {
		exact := values[int(q*float64(len(values))+.5)-1]
		if got := whole.quantile(q); got < exact || got > exact+exact/subBuckets+1 {
			t.Errorf("quantile %g is %d, exactly %d", q, got, exact)
		}
	}
	if got, most := whole.quantile(1), values[len(values)-1]; got != most || whole.max != most {
		t.Errorf("the greatest is %d, not %d", got, most)
	}
	if got := whole.quantile(0); got < values[0] || got > values[0]+1 {
		t.Errorf("the least is %d, not %d", got, values[0])
	}
}

// TestHistogramEdges counts nothing, one value, a clock that went back, and the greatest duration there is.
func TestHistogramEdges(t *testing.T) {
	var h histogram
	if h.quantile(.5) != 0 {
		t.Error("an empty one has a median")
	}
	h.add(7 * time.Millisecond)
	for _, q := range []float64{0, .5, 1} {
		if got := h.quantile(q); got != 7*time.Millisecond {
			t.Errorf("quantile %g of one value is %s", q, got)
		}
	}
	h.add(-time.Second)
	if got := h.quantile(.5); got != 0 {
		t.Errorf("a negative duration counts as %s", got)
	}
	h.add(1<<63 - 1)
	if got := h.quantile(1); got != 1<<63-1 {
		t.Errorf("the greatest is %d", got)
	}
}

// TestBuckets holds every bucket to the values that fall into it.
func TestBuckets(t *testing.T) {
	for bucket := range bucketOf(1<<63-1) + 1 {
		most := upper(bucket)
		if bucketOf(most) != bucket || most < 1<<63-1 && bucketOf(most+1) != bucket+1 {
			t.Fatalf("bucket %d reaches to %d, which is in bucket %d", bucket, most, bucketOf(most))
		}
	}
}
