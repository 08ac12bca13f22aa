//go:build tools

// Package tools pins the store of the test cluster; its program is the module's root.
package tools

import _ "go.etcd.io/etcd/server/v3"
