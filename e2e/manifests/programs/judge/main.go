// judge says how delivery tools read the status of objects: one JSON document per line of standard input, one line of
// JSON out for each, {"kstatus": STATUS, "argo": STATUS, "argoMessage": TEXT}.
//
// kstatus is what Flux, kpt and `kubectl wait`-like tools use, here from their own library. Argo CD runs a script for kinds
// it does not know: FOLDER/KIND/health.lua, in the interpreter and with the libraries that Argo CD gives it.
//
//	judge FOLDER <objects
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// verdict is how the tools read one object.
type verdict struct {
	Kstatus        string `json:"kstatus"`
	KstatusMessage string `json:"kstatusMessage"`
	Argo           string `json:"argo"`
	ArgoMessage    string `json:"argoMessage"`
}

func main() {
	if len(os.Args) != 2 {
		fail("usage: judge FOLDER <objects")
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	for number := 1; lines.Scan(); number++ {
		var object unstructured.Unstructured
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil {
			fail("line %d: %v", number, err)
		}
		found, err := judge(os.Args[1], &object)
		if err != nil {
			fail("line %d: %v", number, err)
		}
		if err := out.Encode(found); err != nil {
			fail("%v", err)
		}
	}
	if err := lines.Err(); err != nil {
		fail("%v", err)
	}
}

func judge(folder string, object *unstructured.Unstructured) (*verdict, error) {
	result, err := status.Compute(object)
	if err != nil {
		return nil, fmt.Errorf("kstatus: %w", err)
	}
	script, err := os.ReadFile(filepath.Join(folder, object.GetKind(), "health.lua"))
	if err != nil {
		return nil, err
	}
	health, message, err := run(string(script), object.Object)
	if err != nil {
		return nil, fmt.Errorf("health.lua of %s: %w", object.GetKind(), err)
	}
	return &verdict{result.Status.String(), result.Message, health, message}, nil
}

// run gives the script the object as `obj` and takes the table it returns: status and message.
func run(script string, object map[string]any) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	// what Argo CD opens for a script, and no more
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}, {lua.StringLibName, lua.OpenString}} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(library.open), Protect: true}, lua.LString(library.name)); err != nil {
			return "", "", err
		}
	}
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	table, isTable := state.Get(-1).(*lua.LTable)
	if !isTable {
		return "", "", fmt.Errorf("gives back %s, not a table", state.Get(-1).Type())
	}
	health, isText := table.RawGetString("status").(lua.LString)
	if !isText {
		return "", "", fmt.Errorf("gives back no status")
	}
	message, _ := table.RawGetString("message").(lua.LString)
	return string(health), string(message), nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		list := state.NewTable()
		for _, item := range value {
			list.Append(toLua(state, item))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "judge: "+format+"\n", values...)
	os.Exit(1)
}
