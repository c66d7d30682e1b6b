// Package neighbours holds tests about engines that share one L3: what one may believe of the ids
// that another writes.
package neighbours
