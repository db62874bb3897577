package bench

import (
	"math/bits"
	"time"
)

const (
	subBits    = 5 // 32 buckets for each power of two: values are exact to 3 %
	subBuckets = 1 << subBits
)

// histogram counts durations. Its zero value is empty; it is not safe for concurrent use.
type histogram struct {
	buckets [64 * subBuckets]uint64
	count   uint64
	sum     time.Duration
	max     time.Duration
}

// bucketOf keeps the leading bits of a value.
func bucketOf(d time.Duration) int {
	n := uint64(d)
	if n < subBuckets {
		return int(n)
	}
	shift := bits.Len64(n) - subBits - 1
	return (shift+1)<<subBits + int(n>>shift) - subBuckets
}

// upper is the largest value of a bucket.
func upper(bucket int) time.Duration {
	if bucket < subBuckets {
		return time.Duration(bucket)
	}
	shift := bucket>>subBits - 1
	return time.Duration((uint64(bucket&(subBuckets-1)|subBuckets)+1)<<shift - 1)
}

// add counts one duration; a clock that went back counts as 0.
func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.buckets[bucketOf(d)]++
	h.count++
	h.sum += d
	h.max = max(h.max, d)
}

// merge adds all that another one has counted.
func (h *histogram) merge(other *histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// quantile gives a value that the part q (0 to 1) of all does not exceed; 0 when it is empty.
func (h *histogram) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(q*float64(h.count)+0.5), 1)
	for i, n := range h.buckets {
		if n >= rank {
			return min(upper(i), h.max)
		}
		rank -= n
	}
	return h.max
}
