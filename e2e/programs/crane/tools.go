//go:build tools

// Package tools names the program that is built from this module: a registry, and what puts images into it.
package tools

import _ "github.com/google/go-containerregistry/cmd/crane"
