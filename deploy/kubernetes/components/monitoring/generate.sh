#!/bin/sh
# Prints prometheusrule.yaml, made of deploy/prometheus/rules.yml:
#   sh generate.sh > /tmp/rule.yaml && mv /tmp/rule.yaml prometheusrule.yaml
set -eu
cat <<'HEAD'
# Made by generate.sh; change deploy/prometheus/rules.yml instead.
# yamllint disable rule:line-length
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: stt
spec:
HEAD
grep -v '^#' "$(dirname "$0")/../../../prometheus/rules.yml" | sed 's/^./  &/'
