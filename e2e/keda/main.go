// Judges ScaledObjects as KEDA does, with KEDA's own types, checks and client.
//
//	judge check FILE                  the objects of kind ScaledObject among the documents of a file
//	judge ask FILE [ADDRESS]          the same, and what the external scaler that each names says; at ADDRESS instead of where it names it
//
// Prints one JSON object for each ScaledObject, or ends with 1 and what is wrong.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"

	"triton-operator/e2e/keda/scalers"
)

const patience = 60 * time.Second

// One metric of a trigger, as KEDA would hand it to a horizontal pod autoscaler.
type metric struct {
	Name   string `json:"name"`
	Target string `json:"target"`
	Value  string `json:"value"`
	Active bool   `json:"active"`
	Pushed bool   `json:"pushed"`
}

type answer struct {
	Name    string   `json:"name"`
	Metrics []metric `json:"metrics"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) < 2 || (arguments[0] != "check" && arguments[0] != "ask") {
		return errors.New("usage: judge check FILE | ask FILE [ADDRESS]")
	}
	objects, err := read(arguments[1])
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := check(object); err != nil {
			return fmt.Errorf("%s: %w", object.Name, err)
		}
		said := answer{Name: object.Name, Metrics: []metric{}}
		if arguments[0] == "ask" {
			address := ""
			if len(arguments) > 2 {
				address = arguments[2]
			}
			if said.Metrics, err = ask(object, address); err != nil {
				return fmt.Errorf("%s: %w", object.Name, err)
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
			return err
		}
	}
	if len(objects) == 0 {
		return fmt.Errorf("%s has no ScaledObject", arguments[1])
	}
	return nil
}

// The ScaledObjects of a file, fields that KEDA does not know refused.
func read(path string) ([]*v1alpha1.ScaledObject, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var objects []*v1alpha1.ScaledObject
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		var kind struct {
			Kind string `json:"kind"`
		}
		if err := strict.Unmarshal(document, &kind); err != nil || kind.Kind != "ScaledObject" {
			continue // a note of what is not made, or another kind
		}
		object := &v1alpha1.ScaledObject{}
		if err := strict.UnmarshalStrict(document, object); err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}

// What KEDA's admission webhook looks at that needs no cluster.
func check(object *v1alpha1.ScaledObject) error {
	return errors.Join(
		v1alpha1.CheckReplicaCountBoundsAreValid(object),
		v1alpha1.CheckFallbackValid(object),
		v1alpha1.ValidateTriggers(object.Spec.Triggers),
	)
}

// What the external scaler says of each trigger.
func ask(object *v1alpha1.ScaledObject, address string) ([]metric, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var all []metric
	for index, trigger := range object.Spec.Triggers {
		if address != "" {
			trigger.Metadata["scalerAddress"] = address
		}
		found, err := askOne(ctx, &scalersconfig.ScalerConfig{
			ScalableObjectName:      object.Name,
			ScalableObjectNamespace: object.Namespace,
			ScalableObjectType:      "ScaledObject",
			TriggerName:             trigger.Name,
			TriggerType:             trigger.Type,
			TriggerMetadata:         trigger.Metadata,
			TriggerIndex:            index,
			MetricType:              trigger.MetricType,
			GlobalHTTPTimeout:       3 * time.Second,
			ScaledObject:            object,
		})
		if err != nil {
			return nil, fmt.Errorf("trigger %d: %w", index, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func askOne(ctx context.Context, config *scalersconfig.ScalerConfig) ([]metric, error) {
	scaler, err := scalers.NewExternalPushScaler(config)
	if err != nil {
		return nil, err
	}
	defer scaler.Close(ctx)
	active := make(chan bool)
	go scaler.Run(ctx, active)
	pushed, is := <-active
	if !is {
		return nil, errors.New("whether it is active is not told in time")
	}
	var all []metric
	for _, spec := range scaler.GetMetricSpecForScaling(ctx) {
		name := spec.External.Metric.Name
		values, isActive, err := scaler.GetMetricsAndActivity(ctx, name)
		if err != nil {
			return nil, err
		}
		if len(values) != 1 {
			return nil, fmt.Errorf("%s has %d values", name, len(values))
		}
		target := spec.External.Target.AverageValue
		if target == nil {
			return nil, fmt.Errorf("%s has no target of AverageValue", name)
		}
		all = append(all, metric{name, target.String(), values[0].Value.String(), isActive, pushed})
	}
	if len(all) == 0 {
		return nil, errors.New("it measures nothing")
	}
	return all, nil
}
