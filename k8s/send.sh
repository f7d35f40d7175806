#!/usr/bin/env bash
# Send manifests, one after the other. `e4t submit k8s` copies this script beside them; submit.sh there calls it.
# Kubernetes' jobs do not wait for each other, so this does. Run again, it goes on: what has ended well or is under way
# stays (Kueue has admitted it, and what is sent says suspended), what has failed is sent anew.
#
#   bash send.sh MANIFEST...
set -euo pipefail

# How the job of a manifest stands; nothing if it is not there, or if the cluster does not answer.
standing() {
    local said
    said=$(kubectl get --filename "$1" --ignore-not-found \
        --output "jsonpath={..kind} {..status.conditions[?(@.status=='True')].type}") || true
    case " $said " in
        *" Failed "*) echo failed ;;
        *" Complete "* | *" Completed "*) echo complete ;;
        *" Job "* | *" JobSet "* | *" TrainJob "*) echo active ;;
    esac
}

before=
for manifest in "$@"; do
    if [ -n "$before" ]; then
        echo "waiting for $before before $manifest; stop me, and submit.sh goes on later"
        until stands=$(standing "$before") && [[ $stands = failed || $stands = complete ]]; do sleep 10; done
        if [ "$stands" = failed ]; then
            echo "$before has failed; kubectl logs says why. $manifest is not sent" >&2
            exit 1
        fi
    fi
    case $(standing "$manifest") in
        complete) echo "$manifest has ended well before" ;;
        active) echo "$manifest is under way" ;;
        failed) kubectl delete --filename "$manifest" --wait && kubectl apply --filename "$manifest" ;;
        *) kubectl apply --filename "$manifest" ;;
    esac
    before=$manifest
done
