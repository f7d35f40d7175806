#!/usr/bin/env bash
# Apply manifests in order, each after the workload of the one before has completed: Kubernetes has no dependencies
# between jobs. `e4t submit k8s` copies this script to the submission folder, where submit.sh calls it. A rerun
# continues: it skips complete and active workloads (applying an active one again would suspend what Kueue has
# admitted), and replaces failed ones.
#
#   bash send.sh MANIFEST...
set -euo pipefail

# Print failed, complete or active for the workload of a manifest; nothing if it does not exist or kubectl fails.
job_status() {
    local output
    output=$(kubectl get --filename "$1" --ignore-not-found \
        --output "jsonpath={..kind} {..status.conditions[?(@.status=='True')].type}") || true
    case " $output " in
        *" Failed "*) echo failed ;;
        *" Complete "* | *" Completed "*) echo complete ;;
        *" Job "* | *" JobSet "* | *" TrainJob "*) echo active ;;
    esac
}

previous=
for manifest in "$@"; do
    if [ -n "$previous" ]; then
        echo "waiting for $previous to complete before applying $manifest (if interrupted, rerun submit.sh to continue)"
        until status=$(job_status "$previous") && [[ $status = failed || $status = complete ]]; do sleep 10; done
        if [ "$status" = failed ]; then
            echo "$previous failed (see kubectl logs); $manifest was not applied" >&2
            exit 1
        fi
    fi
    case $(job_status "$manifest") in
        complete) echo "$manifest is already complete" ;;
        active) echo "$manifest is already active" ;;
        failed) kubectl delete --filename "$manifest" --wait && kubectl apply --filename "$manifest" ;;
        *) kubectl apply --filename "$manifest" ;;
    esac
    previous=$manifest
done
