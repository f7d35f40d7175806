#!/usr/bin/env bash
# Send manifests, one after the other. `e4t submit k8s` copies this script beside them; submit.sh there calls it.
# Kubernetes' jobs do not wait for each other, so this does. Run again, it goes on: what has ended well stays, what has
# failed is sent anew.
#
#   bash send.sh MANIFEST...
set -euo pipefail

# How the job of a manifest has ended: well, badly, or not yet; a cluster that does not answer is asked again.
ended() {
    local conditions
    conditions=$(kubectl get --filename "$1" --ignore-not-found \
        --output "jsonpath={..status.conditions[?(@.status=='True')].type}") || true
    case " $conditions " in
        *" Failed "*) echo badly ;;
        *" Complete "* | *" Completed "*) echo well ;;
        *) echo 'not yet' ;;
    esac
}

before=
for manifest in "$@"; do
    if [ -n "$before" ] && [ "$(ended "$before")" = 'not yet' ]; then
        echo "waiting for $before before $manifest; stop me, and submit.sh goes on later"
        until [ "$(ended "$before")" != 'not yet' ]; do sleep 10; done
    fi
    if [ -n "$before" ] && [ "$(ended "$before")" = badly ]; then
        echo "$before has failed; kubectl logs says why. $manifest is not sent" >&2
        exit 1
    fi
    case $(ended "$manifest") in
        well) echo "$manifest has ended well before" ;;
        badly) kubectl delete --filename "$manifest" --wait && kubectl apply --filename "$manifest" ;;
        *) kubectl apply --filename "$manifest" ;;
    esac
    before=$manifest
done
