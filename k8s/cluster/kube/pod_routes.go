package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// The folder in which containerd looks for a network: as soon as there is one, the kubelet calls its node ready.
const networkFolder = "/etc/cni/net.d"

// One end of a cable in the pod, the other on the node: packets between pods are routed by the node like any other.
// Addresses are not translated, so that a server sees who asks.
const network = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {"type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// keepPodRoutes is the whole pod network of nodes that share a link. It runs on each node: tells containerd from
// which range the pods of this node get their addresses, and keeps a route to the range of every other node.
func keepPodRoutes(*cobra.Command, []string) error {
	self := os.Getenv("NODE_NAME")
	if self == "" {
		return errors.New("NODE_NAME must name the node that this runs on")
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	routes := func(object any) {
		node := object.(*corev1.Node)
		if err := routeTo(node, self); err != nil {
			log.Printf("node %s: %v", node.Name, err) // its next heartbeat tries again
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err = factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    routes,
		UpdateFunc: func(_, node any) { routes(node) },
	})
	if err != nil {
		return err
	}
	factory.Start(nil)
	select {} // until it is killed
}

func routeTo(node *corev1.Node, self string) error {
	if node.Spec.PodCIDR == "" {
		return nil // a node that has just joined gets its range a moment later
	}
	_, pods, err := net.ParseCIDR(node.Spec.PodCIDR)
	if err != nil {
		return err
	}
	if node.Name == self {
		// A pod that is there has a route of its own. Without this one a packet for a pod that is gone would take
		// the default route and come back, until its time to live is over.
		if err := netlink.RouteReplace(&netlink.Route{Dst: pods, Type: unix.RTN_BLACKHOLE}); err != nil {
			return err
		}
		return writeOnce(filepath.Join(networkFolder, "10-pods.conflist"), fmt.Sprintf(network, pods))
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return netlink.RouteReplace(&netlink.Route{Dst: pods, Gw: net.ParseIP(address.Address)})
		}
	}
	return errors.New("has no internal address")
}

// writeOnce leaves a file alone that says the same already: containerd would read it again at every heartbeat.
func writeOnce(path, text string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return nil
	}
	// Moved into place whole: containerd watches the folder.
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
