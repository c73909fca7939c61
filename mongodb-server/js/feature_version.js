// Through a router: lets the cluster use, and write, what only task.series and later can read.

anyRouter("root").adminCommand({ setFeatureCompatibilityVersion: task.series, confirm: true });
