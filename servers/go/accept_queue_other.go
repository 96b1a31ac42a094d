//go:build !linux

package main

import "errors"

func dropNewSYNs(int) error {
	return errors.New("this operating system has no SO_ATTACH_FILTER")
}
