// Prints the environment variables that the kubelet sets in a container for the Services of its namespace.
//
// Standard input is a JSON list of Services, standard output a JSON list of {"name", "value"}. The names and values
// come from the kubelet's own code, so that the tests hold against what a real node does.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--version" {
		return
	}
	var services []*corev1.Service
	if err := json.NewDecoder(os.Stdin).Decode(&services); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet-envvars: cannot read the list of Services:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(envvars.FromServices(services)); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet-envvars: cannot write the variables:", err)
		os.Exit(1)
	}
}
