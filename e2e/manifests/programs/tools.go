//go:build tools

// The programs that are built as they are: named here so that go.mod keeps them.
package tools

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
)
